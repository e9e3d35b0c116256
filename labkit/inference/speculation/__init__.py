"""Speculative decoding: a cheap guess of several tokens, checked by one pass of the model."""
