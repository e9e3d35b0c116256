"""What requests may hold: everything else is refused with its name."""
