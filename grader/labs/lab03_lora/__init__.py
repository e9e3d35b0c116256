"""Checks of lab 03: a LoRA layer by hand."""
