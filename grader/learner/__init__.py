"""What a learner runs: the checks of their own notebook, and how far they are."""
