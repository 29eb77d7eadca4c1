"""HTTP as the site speaks it: requests and answers, routes, parameters, their description, and the server."""
