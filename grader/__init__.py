"""Release, checks, sandboxed grading, feedback and export of the course's labs."""
