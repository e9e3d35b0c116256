"""Checks of lab 11: speculative decoding and structured output."""
