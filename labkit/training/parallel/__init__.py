"""Parallel training by hand: collectives from send and receive, and the methods built on them."""
