"""Checks of lab 02: pretraining, from pairs of bytes to a small model's curve."""
