"""The checks of each lab: drive, check and mutants."""
