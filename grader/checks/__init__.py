"""One check suite, three uses: tests, notebook cells and the hardened grader."""
