"""Checks of lab 20: measuring models."""
