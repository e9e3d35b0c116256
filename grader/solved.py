"""The solved notebook of an instructor: what its markers enclose, and the notebook without them."""

import copy
import re

from grader.notebooks import Cell, Notebook, grade_id, is_solution, source


def marked_regions(cell: Cell, what: str) -> list[str]:
    """The texts between `### BEGIN what` and `### END what` of one cell."""
    pattern = rf"### BEGIN {what}\n(.*?)^\s*### END {what}"
    return re.findall(pattern, source(cell), re.DOTALL | re.MULTILINE)


def without_markers(solved: Notebook) -> Notebook:
    """The solved notebook as a student would hand it in: the answers without their markers."""
    notebook = copy.deepcopy(solved)
    for cell in notebook["cells"]:
        if is_solution(cell):
            assert marked_regions(cell, "SOLUTION"), grade_id(cell)
            lines = source(cell).splitlines()
            kept = [line for line in lines if line.strip()[:4] != "### "]
            cell["source"] = "\n".join(kept)
    return notebook
