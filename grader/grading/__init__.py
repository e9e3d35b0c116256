"""From a class's submissions to results: boxes, cache, machines, and grading again."""
