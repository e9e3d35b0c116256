"""Figures in one style; the only package that imports matplotlib."""
