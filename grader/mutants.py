"""Known-wrong answers to a lab's questions, each written as a change of the right one.

`grader/labs/<lab>/mutants.py` has them by question and by the mistake that is made.
"""

import copy
import re
import textwrap
from collections.abc import Sequence
from importlib import import_module

from grader.checks.core import load_lab
from grader.notebooks import Notebook, grade_id, is_solution, source
from grader.solved import without_markers

# Either pairs (text of the solution, what stands there instead) or a whole body of the solution.
Mutant = str | Sequence[tuple[str, str]]
Mutants = dict[str, dict[str, Mutant]]
BODY = re.compile(
    r"(### BEGIN SOLUTION\n).*?^( *)(### END SOLUTION)", flags=re.DOTALL | re.MULTILINE
)


def load_mutants(lab: str) -> Mutants:
    """A lab's mutants by question, in the questions' order.

    Raises:
        ValueError: There is no such lab, or its mutants are of questions that it does not have.
    """
    questions = [check.name for check in load_lab(lab).checks]
    found: Mutants = import_module(f"grader.labs.{lab}.mutants").MUTANTS
    if unknown := sorted(set(found) - set(questions)):
        raise ValueError(f"{lab} has mutants of {', '.join(unknown)}, which is no question of it")
    return {question: found.get(question, {}) for question in questions}


def mutated(solved: Notebook, question: str, mutant: Mutant) -> Notebook:
    """The solved notebook as handed in by somebody who made one mistake in one question.

    Raises:
        ValueError: What the mutant changes does not stand in the solution, or more than once.
    """
    notebook = copy.deepcopy(solved)
    for cell in notebook["cells"]:
        if is_solution(cell) and grade_id(cell) == question:
            cell["source"] = _rewritten(source(cell), mutant)
    return without_markers(notebook)


def _rewritten(solution: str, mutant: Mutant) -> str:
    if isinstance(mutant, str):
        return _with_body(solution, mutant)
    for old, new in mutant:
        if (count := solution.count(old)) != 1:
            raise ValueError(f"{old!r} must stand in the solution once, it is there {count} times")
        solution = solution.replace(old, new)
    return solution


def _with_body(solution: str, body: str) -> str:
    found = BODY.findall(solution)
    if len(found) != 1:
        raise ValueError(f"a whole body cannot take the place of {len(found)} solution regions")
    begin, margin, end = found[0]
    text = textwrap.indent(textwrap.dedent(body).strip("\n"), margin)
    return BODY.sub(lambda _: f"{begin}{text}\n{margin}{end}", solution)
