"""Checks of lab 04: QLoRA, from four-bit levels to an adapter that trains on them."""
