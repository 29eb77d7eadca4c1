"""The services that the simulator adds to the rig's, and the builds that they and the rig's are upgraded to."""
