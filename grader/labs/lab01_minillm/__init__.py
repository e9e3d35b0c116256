"""Checks of lab 01: a transformer's parts by hand."""
