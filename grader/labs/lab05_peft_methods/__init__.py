"""Checks of lab 05: the ways of tuning other than LoRA."""
