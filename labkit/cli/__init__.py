"""The labkit command line, one module a command."""
