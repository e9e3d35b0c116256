"""Perplexity, multiple choice, intervals, latency, load on servers."""
