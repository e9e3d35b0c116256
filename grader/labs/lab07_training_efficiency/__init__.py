"""Checks of lab 07: training efficiency, the same numbers from less memory."""
