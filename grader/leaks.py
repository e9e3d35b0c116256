"""What must not be in a release: markers, stray metadata, unexpected files, solution code."""

import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

from grader.notebooks import Cell, Notebook, grade_id, is_solution, nbgrader, source

RUN_OF_TOKENS = 8
MARKERS = frozenset(
    f"### {edge} {what}"
    for edge in ("BEGIN", "END")
    for what in ("SOLUTION", "HIDDEN TESTS", "MARK SCHEME")
)
MARKER_LIKE = re.compile(r"^\s*#+\s*(begin|end)\b.*(sol|hidden|test|mark)", re.IGNORECASE)
CELL_METADATA = frozenset({"nbgrader", "tags", "deletable", "editable"})
NOTEBOOK_METADATA = frozenset({"kernelspec", "language_info"})
IGNORED_TOKENS = frozenset(
    {tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
)


def scan(solution: Notebook, release: Notebook, folder: Path, files: tuple[str, ...]) -> list[str]:
    """Return one sentence for each leak; an empty list means the release may go out."""
    return [
        *_misspelt_markers(solution),
        *_stray_metadata(release),
        *_unexpected_files(folder, files),
        *_released_solutions(solution, release),
        *_unprotected_answers(solution),
    ]


def _name(cell: Cell) -> str:
    return grade_id(cell) or str(cell.get("id", "?"))


def _misspelt_markers(solution: Notebook) -> Iterator[str]:
    for cell in solution["cells"]:
        for line in source(cell).splitlines():
            if MARKER_LIKE.match(line) and line.strip() not in MARKERS:
                yield f"cell {_name(cell)}: {line.strip()!r} looks like a marker but is none"


def _stray_metadata(release: Notebook) -> Iterator[str]:
    for key in sorted(set(release["metadata"]) - NOTEBOOK_METADATA):
        yield f"the notebook's metadata has {key!r}"
    for cell in release["cells"]:
        for key in sorted(set(cell["metadata"]) - CELL_METADATA):
            yield f"cell {_name(cell)}: its metadata has {key!r}"
        if cell.get("outputs"):
            yield f"cell {_name(cell)}: it has outputs"
        if any(marker in source(cell) for marker in MARKERS):
            yield f"cell {_name(cell)}: a marker is still in it"


def _unexpected_files(folder: Path, files: tuple[str, ...]) -> Iterator[str]:
    allowed = {f"{folder.name}.ipynb", *files}
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder).as_posix()
        if path.is_file() and ".ipynb_checkpoints" not in path.parts and relative not in allowed:
            yield f"{relative} lies beside the notebook and is not in the lab's list of files"


def _unprotected_answers(solution: Notebook) -> Iterator[str]:
    for cell in solution["cells"]:
        body = source(cell)
        if is_solution(cell) and cell["cell_type"] == "code" and "### BEGIN SOLUTION" not in body:
            yield f"cell {_name(cell)}: a solution cell without ### BEGIN SOLUTION"
        if nbgrader(cell).get("grade") is True and nbgrader(cell).get("locked") is not True:
            yield f"cell {_name(cell)}: a graded cell that is not locked"


def solution_regions(cell: Cell) -> list[str]:
    """The texts between ### BEGIN SOLUTION and ### END SOLUTION of one cell."""
    pattern = r"### BEGIN SOLUTION\n(.*?)^\s*### END SOLUTION"
    return re.findall(pattern, source(cell), re.DOTALL | re.MULTILINE)


def tokens(text: str) -> list[str]:
    """Python tokens of a text; words and signs where it is not Python."""
    try:
        found = list(tokenize.generate_tokens(io.StringIO(text).readline))
    except (tokenize.TokenError, SyntaxError):
        return re.findall(r"\w+|[^\w\s]", text)
    return [token.string for token in found if token.type not in IGNORED_TOKENS]


def _runs(words: list[str]) -> set[tuple[str, ...]]:
    starts = range(len(words) - RUN_OF_TOKENS + 1)
    return {tuple(words[start : start + RUN_OF_TOKENS]) for start in starts}


def _released_solutions(solution: Notebook, release: Notebook) -> Iterator[str]:
    answers: dict[tuple[str, ...], str] = {}
    for cell in solution["cells"]:
        for region in solution_regions(cell):
            answers |= dict.fromkeys(_runs(tokens(_dedented(region))), _name(cell))
    for cell in release["cells"]:
        shared = _runs(tokens(source(cell))) & answers.keys()
        for run in sorted(shared)[:1]:
            text = " ".join(run)
            yield f"cell {_name(cell)}: repeats the solution of {answers[run]}: {text}"


def _dedented(region: str) -> str:
    lines = region.splitlines()
    margin = min((len(line) - len(line.lstrip()) for line in lines if line.strip()), default=0)
    return "\n".join(line[margin:] for line in lines)
