"""Checks of lab 06: parallelism, from a ring of messages to a pipeline's schedule."""
