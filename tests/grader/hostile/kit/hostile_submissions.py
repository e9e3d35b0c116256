"""A hostile submission as a file: its header says what grading must answer, its cells do the harm.

The header is comments, `# field: value`, up to the first cell:

    # expect: PARTIAL 28            status and points; `A|B <=9 or OK 32` where more is right
    # cell lora_delta: TIMEOUT      what its cells get; `check_` or `hidden_` before it for one,
                                    `any` for those that no line names
    # base: solved                  the notebook that is changed: solved or release
    # says: no more than 15 words   is in what the student is told; may be repeated
    # student: "=cmd()"             submitted under this name (JSON, `* N` times); may be repeated
    # spares: rlimits               tiers it is not run on, the note says why
    # known: why it is not yet so   a weakness of the grader; the test fails once it is gone
    # note: …                       what it does, and what would be wrong

Other cells get OK in a solved notebook and WRONG in a released one. Then either cells in percent
format, `# %% grade_id`, that replace the notebook's, or `build(folder, solved, release)`,
which writes into the folder that was submitted. @course@, @home@ and @port@ in a cell are what an
attacker may know: the course's folder, the instructor's home, a port that somebody listens on.
"""

import copy
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from runpy import run_path

from grader.notebooks import Notebook, grade_id, write_notebook

FOLDER = Path(__file__).parents[1] / "submissions"
HEADER = re.compile(r"# (?P<field>[a-z]+|cell \w+): ?(?P<value>.*)")
CELL = re.compile(r"^# %% (\w+)\n", re.MULTILINE)
FIELDS = ("expect", "base", "says", "student", "spares", "known", "note")


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """One right answer to a submission."""

    statuses: frozenset[str]
    points: float
    or_less: bool = False

    def allows(self, status: str, points: float) -> bool:
        enough = points <= self.points if self.or_less else points == self.points
        return status in self.statuses and enough

    @classmethod
    def parse(cls, text: str) -> list["Verdict"]:
        found = []
        for one in text.split(" or "):
            statuses, _, points = one.strip().partition(" ")
            or_less = points.startswith("<=")
            found.append(
                cls(
                    statuses=frozenset(statuses.split("|")),
                    points=float(points.removeprefix("<=") or 0.0),
                    or_less=or_less,
                )
            )
        return found


@dataclass(frozen=True, kw_only=True, slots=True)
class Submission:
    """One file of `submissions/`."""

    path: Path
    expect: list[Verdict]
    base: str = "solved"
    cells: dict[str, frozenset[str]] = field(default_factory=dict)
    says: tuple[str, ...] = ()
    students: tuple[str, ...] = ()
    spares: frozenset[str] = frozenset()
    known: str = ""

    @property
    def name(self) -> str:
        return self.path.stem

    @property
    def row(self) -> int:
        return int(self.name[:2])

    def allows(self, status: str, points: float) -> bool:
        return any(verdict.allows(status, points) for verdict in self.expect)

    def cell(self, name: str) -> frozenset[str]:
        """Statuses a graded cell, `check_…` or `hidden_…`, may have."""
        exercise = name.partition("_")[2]
        usual = frozenset({"OK" if self.base == "solved" else "WRONG"})
        named = (self.cells.get(place) for place in (name, exercise, "any"))
        return next((statuses for statuses in named if statuses), usual)

    def write(
        self, folder: Path, solved: Notebook, release: Notebook, known: dict[str, str]
    ) -> None:
        """Submit it: write what the student hands in into a new folder."""
        folder.mkdir(parents=True)
        text = self.path.read_text(encoding="utf-8")
        if "\ndef build(" in text:
            run_path(str(self.path))["build"](folder, copy.deepcopy(solved), copy.deepcopy(release))
            return
        notebook = copy.deepcopy(solved if self.base == "solved" else release)
        sources = self._sources(text)
        for cell in notebook["cells"]:
            if source := sources.pop(grade_id(cell), ""):
                for word, value in known.items():
                    source = source.replace(f"@{word}@", value)
                cell["source"] = source
        assert not sources, f"{self.name}: no cells {sorted(sources)}"
        write_notebook(folder / f"{folder.name}.ipynb", notebook)

    def _sources(self, text: str) -> dict[str, str]:
        parts = CELL.split(text)[1:]
        return dict(zip(parts[::2], parts[1::2], strict=True))


def header(path: Path) -> dict[str, list[str]]:
    """The fields of a file's header, each with its values in order."""
    fields: dict[str, list[str]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("# %%") or not line.startswith("#"):
            break
        if found := HEADER.fullmatch(line):
            fields.setdefault(found["field"], []).append(found["value"].strip())
    return fields


def read(path: Path) -> Submission:
    """Read a submission's header; ValueError names what is wrong with it."""
    fields = header(path)
    cells = {name[5:]: values[0] for name, values in fields.items() if name.startswith("cell ")}
    unknown = {name for name in fields if not name.startswith("cell ")} - set(FIELDS)
    missing = {"expect", "note"} - set(fields)
    if unknown or missing:
        raise ValueError(f"{path.name}: unknown {sorted(unknown)}, missing {sorted(missing)}")
    return Submission(
        path=path,
        expect=Verdict.parse(fields["expect"][0]),
        base=fields.get("base", ["solved"])[0],
        cells={name: frozenset(text.split("|")) for name, text in cells.items()},
        says=tuple(fields.get("says", ())),
        students=tuple(_name(text) for text in fields.get("student", ())),
        spares=frozenset(fields.get("spares", [""])[0].split()),
        known=fields.get("known", [""])[0],
    )


def _name(text: str) -> str:
    quoted, _, times = text.rpartition(" * ") if text[-1].isdigit() else (text, "", "1")
    name: str = json.loads(quoted)
    return name * int(times)


def read_all(folder: Path = FOLDER) -> list[Submission]:
    """All submissions in the order of their names."""
    return [read(path) for path in sorted(folder.glob("*.py"))]
