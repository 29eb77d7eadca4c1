"""The HTTP side: routes, answers, the read head, and what is served for operators."""
