"""nbgrader's settings for this course; `grader` uses the same folders."""

c = get_config()

c.CourseDirectory.source_directory = "solutions"
c.CourseDirectory.release_directory = "labs"
c.Execute.timeout = 120
c.OverwriteCells.add_missing_cells = True
