"""Checks of lab 15: number formats, GPTQ and Wanda by hand."""
