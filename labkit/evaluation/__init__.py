"""Perplexity, multiple choice, intervals, latency."""
