"""Checks of lab 08: alignment, from log-probabilities to policy losses."""
