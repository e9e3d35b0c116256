"""Checks of lab 10: pages, prefixes, attention over pages and a scheduler."""
