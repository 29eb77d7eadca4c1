"""Tools for tests of a service or an adapter: engines in memory, broken ones, contract suites, waiting."""
