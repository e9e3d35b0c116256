"""Which submissions share code of their own, as a signal for people."""
