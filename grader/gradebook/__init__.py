"""The gradebook and what people decide in it: one writer, manual grades, attempts, penalties."""
