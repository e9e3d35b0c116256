"""The command `grader`: one module a command."""
