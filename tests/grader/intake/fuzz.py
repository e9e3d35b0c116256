"""Fuzz what reads students' bytes: `python tests/grader/intake/fuzz.py --minutes 10`.

Hypothesis chooses a seed file and what to change in it. Notebooks are read and transplanted;
archives are collected into a course on the real file system. Nothing but the one documented
exception may come out, nothing may be written elsewhere, and one input may take neither 10 s nor
much memory. Prints executions and crashes; exit status 1 after a crash, whose input is kept.
"""

import argparse
import contextlib
import copy
import io
import json
import lzma
import resource
import shutil
import sys
import tarfile
import time
import traceback
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from grader.course import Course
from grader.intake.collection import collect
from grader.intake.roster import Roster
from grader.notebooks import InvalidNotebookError, Notebook, read_notebook, write_notebook
from grader.transplant import transplant

LAB = "lab03_lora"
ROOT = Path(__file__).parents[3]
BATCH = 200
INPUT_S = 10.0
MEMORY_BYTES = 4 * 2**30
TOKENS = [
    *(b"{", b"}", b"[", b"]", b'"', b",", b":", b"\\", b"\\ud800", b"\\u0000", b"NaN", b"1e999"),
    *(b"null", b"true", b"-", b"\xff", b"\xef\xbb\xbf", b"[" * 2000, b"9" * 5000, b'{"a":' * 200),
    *(b'"cells"', b'"source"', b'"metadata"', b'"nbgrader"', b'"grade_id"', b'"nbformat"'),
    *(b"../", b"/", b"\0", b"\n", b"C:", b"con", b"PK\1\2", b"PK\3\4", b"PK\5\6", b"PK\6\6"),
    *(b"\0" * 512, b"\xff" * 4, b"\x80" + b"\xff" * 11, b"00000000000", b"77777777777", b"ustar"),
    *(b"17 path=../../x\n", b"20 size=99999999999\n", b"22 GNU.sparse.major=1\n"),
]
ODD_VALUES = [
    *(None, True, 4, 3, -1, 10**4000, 1.5, "", "code", "markdown", "\ud800", "\0", "x" * 100_000),
    *([], {}, [[]], [None], ["a", 1], {"": {}}, {"nbgrader": {"grade_id": ["a"]}}, [{}] * 2001),
    *({"image/png": "iVBORw0KGgoAAAANSUhEUgAAAAEAAAAB"}, {"image/png": ["====", 1]}, {"data": 1}),
]
Change = tuple[str, float, int, bytes]
Graft = tuple[float, Any]


def changes() -> st.SearchStrategy[list[Change]]:
    """What to do, where (as a share of the length), how far, with what."""
    what = st.sampled_from(["flip", "set", "insert", "cut", "copy", "end"])
    payload = st.sampled_from(TOKENS) | st.binary(min_size=1, max_size=8)
    return st.lists(st.tuples(what, st.floats(0, 1), st.integers(1, 600), payload), max_size=6)


def changed(seed: bytes, todo: list[Change]) -> bytes:
    content = bytearray(seed)
    for what, where, length, payload in todo:
        at = int(where * len(content))
        if what == "flip" and at < len(content):
            content[at] ^= 1 << length % 8
        elif what == "set":
            content[at : at + len(payload)] = payload
        elif what == "insert":
            content[at:at] = payload
        elif what == "cut":
            del content[at : at + length]
        elif what == "copy":
            content[at:at] = content[at : at + length] * (1 + length % 3)
        elif what == "end":
            del content[at:]
    return bytes(content)


def places(value: Any) -> list[tuple[Any, Any]]:
    """Every container in a value with every key of it."""
    found = [(value, key) for key in (value if isinstance(value, dict) else range(len(value)))]
    inner = [value[key] for _, key in found if isinstance(value[key], dict | list)]
    return found + [place for child in inner for place in places(child)]


def grafted(seed: bytes, grafts: list[Graft]) -> bytes:
    """A notebook that is still JSON, with odd values in places."""
    notebook = json.loads(seed)
    for where, value in grafts:
        found = places(notebook)
        container, key = found[int(where * (len(found) - 1))] if found else (notebook, "cells")
        container[key] = copy.deepcopy(value)
    return json.dumps(notebook).encode()


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
        started = time.process_time()
        try:
            getattr(self, kind)()
            if time.process_time() - started > INPUT_S:
                raise AssertionError(f"it took more than {INPUT_S} s")
        except Exception:
            self.crashes.append(traceback.format_exc())
            kept = Path(f"crash-{kind}-{len(self.crashes)}").absolute()
            kept.write_bytes(content)
            sys.stderr.write(f"CRASH, kept as {kept}:\n{self.crashes[-1]}\n")

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
        """Collect, as `grader collect` does, and look where anything was written."""
        try:
            manifest = collect(self.course, LAB, self.input, Roster())
        except ValueError:
            self.outcomes["archive refused"] += 1
        else:
            states = manifest.states()
            self.outcomes["archive read"] += 1
            self.outcomes.update(f"submission {state}" for state in states.elements())
            manifest.as_json().encode()
        places = [self.course.root / name for name in ("submitted", "attempts")]
        for path in set(self.folder.rglob("*")) - self.before:
            assert any(place in (path, *path.parents) for place in places), f"{path} was written"
            assert not path.is_symlink(), f"{path} is a link"
        for place in places:
            shutil.rmtree(place, ignore_errors=True)


def notebooks(release: Notebook) -> list[bytes]:
    """A whole lab, a small one, one with outputs of every kind."""
    small = {**release, "cells": [c for c in release["cells"] if c["metadata"]][:6]}
    rich = copy.deepcopy(small)
    for cell in rich["cells"]:
        cell["outputs"] = [
            {"output_type": "stream", "name": "stdout", "text": ["a\n", "b"]},
            {"output_type": "display_data", "data": {"image/png": "iVBORw0KGgo="}, "metadata": {}},
        ]
        cell["attachments"] = {"a.png": {"image/png": "iVBORw0KGgo="}}
    return [json.dumps(each, indent=1).encode() for each in (small, rich, release)]


def archives(book: bytes) -> list[bytes]:
    """Zip and tar in every packing, with the names of every layout."""
    files = {
        f"ada/{LAB}/{LAB}.ipynb": book,
        "ada/notes.txt": b"notes",
        f"ben/{LAB}.ipynb": book,
        "Eli Roe_12_assignsubmission_file_/final.ipynb": book,
        "doeflo_LATE_12_345_lab.ipynb": book,
        f"gus+{LAB}+2026-03-01 12:00:00.5 UTC+ab/{LAB}.ipynb": book,
        f"hal/{'long' * 60}.csv": b"1,2",
    }
    zips, tars = [], []
    for packing in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", packing) as archive:
            for name, content in files.items():
                archive.writestr(name, content)
        zips.append(buffer.getvalue())
    for form in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w", format=form) as archive:
            for name, content in files.items():
                info = tarfile.TarInfo(name)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
            link = tarfile.TarInfo("ada/link.py")
            link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
            archive.addfile(link)
        tars.append(buffer.getvalue())
    return zips + tars


def packed(content: bytes, packing: int) -> bytes:
    """Pack a changed tar, so that the changes are reached; a zip is packed from within."""
    if content.startswith(b"PK") or packing == 0:
        return content
    if packing == 1:
        encoder = zlib.compressobj(1, wbits=31)
        return encoder.compress(content) + encoder.flush()
    return lzma.compress(content, preset=0)


def batches(fuzz: Fuzz) -> list[Callable[[], None]]:
    """What is tried, each a batch of inputs that hypothesis chooses anew every time."""
    books = notebooks(fuzz.release)
    sources = archives(books[0])
    how = settings(
        max_examples=BATCH,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )

    @how
    @given(seed=st.sampled_from(books), todo=changes())
    def read_changed_bytes(seed: bytes, todo: list[Change]) -> None:
        fuzz.run("notebook", changed(seed, todo))

    grafts = st.lists(st.tuples(st.floats(0, 1), st.sampled_from(ODD_VALUES)), max_size=5)

    @how
    @given(seed=st.sampled_from(books), grafts=grafts)
    def read_changed_json(seed: bytes, grafts: list[Graft]) -> None:
        fuzz.run("notebook", grafted(seed, grafts))

    @how
    @given(
        seed=st.sampled_from(sources),
        todo=changes(),
        packing=st.integers(0, 2),
        after=changes() | st.just([]),
    )
    def read_an_archive(seed: bytes, todo: list[Change], packing: int, after: list[Change]) -> None:
        fuzz.run("archive", changed(packed(changed(seed, todo), packing), after))

    return [read_changed_bytes, read_changed_json, read_an_archive]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=10)
    until = time.monotonic() + 60 * parser.parse_args().minutes
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
