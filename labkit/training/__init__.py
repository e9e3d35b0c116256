"""Training loops that yield step records, schedules, checkpoints, tracking."""
