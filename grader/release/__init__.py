"""From a solved lab to what may be published: notebook, leak scan, learners' repository."""
