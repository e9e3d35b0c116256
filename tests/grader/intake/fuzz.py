"""Fuzz what reads students' bytes: `python tests/grader/intake/fuzz.py --minutes 10`.

Hypothesis makes notebooks and archives (see `kit/fuzz_inputs.py`). Notebooks are read and
transplanted; archives are collected into a course on the real file system, twice. Nothing but the
one documented exception may come out, nothing may be written elsewhere, the second time must change
nothing, and one input may take neither 10 s nor much memory. Prints executions and crashes; exit
status 1 after a crash, whose input is kept.
"""

import argparse
import contextlib
import copy
import json
import resource
import shutil
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType
from typing import NoReturn

sys.path.append(
    str(Path(__file__).with_name("kit"))
)  # what these tests share; tests are no package

from fuzz_inputs import Change, Graft, archives, changed, changes, grafted, grafts
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from intake_kit import whole

from grader.course import Course
from grader.intake.collection import collect
from grader.intake.manifest import Manifest
from grader.intake.roster import Roster
from grader.intake.summary import summary
from grader.notebooks import InvalidNotebookError, Notebook, read_notebook, write_notebook
from grader.transplant import transplant

LAB = "lab03_lora"
ROOT = Path(__file__).parents[3]
BATCH = 50
INPUT_S = 10.0
MEMORY_BYTES = 4 * 2**30
AGAIN = {"unchanged", "refused"}


class TookLongError(BaseException):
    """An input took more processor time than any should; nobody else is to catch this."""


def _took_long(signal_number: int, frame: FrameType | None) -> NoReturn:
    raise TookLongError(f"it took more than {INPUT_S} s")


@dataclass
class Fuzz:
    """One fuzzing: its course, its counts.

    Attributes:
        executions: Inputs tried, of each kind.
        outcomes: How they ended.
        crashes: What came out that should not have.
    """

    folder: Path
    executions: Counter[str] = field(default_factory=Counter)
    outcomes: Counter[str] = field(default_factory=Counter)
    crashes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.course = Course(root=self.folder / "course")
        self.release = read_notebook(ROOT / "labs" / LAB / f"{LAB}.ipynb")
        write_notebook(self.course.source(LAB), self.release)
        write_notebook(self.course.release(LAB), self.release)
        self.input = self.folder / "input"
        self.before = set(self.folder.rglob("*")) | {self.input}

    def run(self, kind: str, content: bytes) -> None:
        """Try one input; a crash is noted and kept."""
        self.executions[kind] += 1
        self.input.write_bytes(content)
        signal.setitimer(signal.ITIMER_VIRTUAL, INPUT_S)
        try:
            getattr(self, kind)()
        except (Exception, TookLongError):
            self.crashes.append(traceback.format_exc())
            kept = Path(f"crash-{kind}-{len(self.crashes)}").absolute()
            kept.write_bytes(content)
            sys.stderr.write(f"CRASH, kept as {kept}:\n{self.crashes[-1]}\n")
        finally:
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)

    def notebook(self) -> None:
        """Read and transplant, as grading does."""
        found, why = None, ""
        try:
            found = read_notebook(self.input)
        except InvalidNotebookError as error:
            why = str(error)
        assert why.isprintable(), "a refusal that cannot be printed"
        self.outcomes["notebook refused" if found is None else "notebook read"] += 1
        if found is None:
            return
        made = transplant(self.release, found)
        json.dumps(made.cells_to_run()).encode()
        json.dumps(made.notebook, ensure_ascii=False).encode()
        assert all(note.isprintable() for note in made.notes), "a note that cannot be printed"

    def archive(self) -> None:
        """Collect twice, as `grader collect` does, and look where anything was written."""
        places = [self.course.root / name for name in ("submitted", "attempts")]
        try:
            self._collected()
            once = whole(self.course.root)
            for path in set(self.folder.rglob("*")) - self.before:
                assert any(place in (path, *path.parents) for place in places), f"{path} is written"
                assert not path.is_symlink(), f"{path} is a link"
            states = {str(state) for state in self._collected().states()}
            assert states <= AGAIN, f"collected again: {states}"
            assert whole(self.course.root) == once, "collecting again changed something"
        except ValueError:
            self.outcomes["archive refused"] += 1
        for place in places:
            shutil.rmtree(place, ignore_errors=True)

    def _collected(self) -> Manifest:
        manifest = collect(self.course, LAB, self.input, Roster())
        self.outcomes["archive damaged" if manifest.damage else "archive read"] += 1
        self.outcomes.update(f"submission {state}" for state in manifest.states().elements())
        manifest.as_json().encode()
        assert all(line.isprintable() for line in summary(manifest)), "cannot be printed"
        return manifest


def notebooks(release: Notebook) -> list[Notebook]:
    """A small lab, one with outputs of every kind, a whole one."""
    small = {**release, "cells": [c for c in release["cells"] if c["metadata"]][:6]}
    rich = copy.deepcopy(small)
    for cell in rich["cells"]:
        cell["outputs"] = [
            {"output_type": "stream", "name": "stdout", "text": ["a\n", "b"]},
            {"output_type": "display_data", "data": {"image/png": "iVBORw0KGgo="}, "metadata": {}},
        ]
        cell["attachments"] = {"a.png": {"image/png": "iVBORw0KGgo="}}
    return [small, rich, release]


def batches(fuzz: Fuzz) -> list[Callable[[], None]]:
    """What is tried, each a batch of inputs that hypothesis chooses anew every time."""
    books = notebooks(fuzz.release)
    seeds = [json.dumps(each, indent=1).encode() for each in books]
    how = settings(
        max_examples=BATCH,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )

    @how
    @given(seed=st.sampled_from(seeds), todo=changes())
    def read_changed_bytes(seed: bytes, todo: list[Change]) -> None:
        fuzz.run("notebook", changed(seed, todo))

    @how
    @given(seed=st.sampled_from(books), todo=grafts())
    def read_changed_json(seed: Notebook, todo: list[Graft]) -> None:
        fuzz.run("notebook", grafted(seed, todo))

    @how
    @given(content=archives(LAB, seeds[0]))
    def read_an_archive(content: bytes) -> None:
        fuzz.run("archive", content)

    return [read_changed_bytes, read_changed_json, read_an_archive]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=10)
    until = time.monotonic() + 60 * parser.parse_args().minutes
    signal.signal(signal.SIGVTALRM, _took_long)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    with TemporaryDirectory() as folder:
        fuzz = Fuzz(Path(folder))
        with contextlib.suppress(KeyboardInterrupt):
            properties = batches(fuzz)
            while time.monotonic() < until and not fuzz.crashes:
                for each in properties:
                    each()
    counts = ", ".join(f"{count} {kind}s" for kind, count in sorted(fuzz.executions.items()))
    outcomes = ", ".join(f"{count} {what}" for what, count in sorted(fuzz.outcomes.items()))
    total, crashes = fuzz.executions.total(), len(fuzz.crashes)
    sys.stdout.write(f"{total} executions ({counts}), {crashes} crashes.\nOutcomes: {outcomes}.\n")
    return 1 if fuzz.crashes else 0


if __name__ == "__main__":
    sys.exit(main())
