"""The journal on its way: relayed, followed without a hole, spread over processes, watched for deadly messages."""
