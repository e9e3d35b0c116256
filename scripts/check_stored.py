"""Compare the lectures' marked cells with what a fresh run gives, at SCALE=smoke.

nbval executes a notebook and compares the cells that begin with `# NBVAL_CHECK_OUTPUT` with their
stored outputs. Only values that depend on neither machine nor scale are marked, so a copy with
the scale turned down does as well as the lecture itself, in a fraction of the time.
"""

import json
import sys
import tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MARK, PARAMETERS = "# NBVAL_CHECK_OUTPUT", 'SCALE = "cpu"'


def smoke_copy(lecture: Path, folder: Path) -> Path:
    """Write a copy of a lecture whose parameters cell says smoke.

    Raises:
        SystemExit: the lecture marks no cell, or has no parameters cell.
    """
    notebook = json.loads(lecture.read_text(encoding="utf-8"))
    sources = ["".join(cell["source"]) for cell in notebook["cells"]]
    if not any(source.startswith(MARK) for source in sources):
        sys.exit(f"{lecture} marks no cell with {MARK!r}: mark one whose output is stable")
    if PARAMETERS not in sources:
        sys.exit(f"{lecture} has no cell {PARAMETERS!r}")
    notebook["cells"][sources.index(PARAMETERS)]["source"] = PARAMETERS.replace("cpu", "smoke")
    copy = folder / lecture.name
    copy.write_text(json.dumps(notebook), encoding="utf-8")
    return copy


def main() -> int:
    lectures = sorted(ROOT.glob("chapters/*/*.ipynb"))
    with tempfile.TemporaryDirectory() as folder:
        copies = []
        for index, lecture in enumerate(lectures):
            place = Path(folder) / str(index)
            place.mkdir()
            copies.append(str(smoke_copy(lecture, place)))
        options = ["-q", "--nbval-lax", "--nbval-kernel-name=python3", f"--rootdir={folder}"]
        return pytest.main([*options, "-p", "no:cacheprovider", "-c", "/dev/null", *copies])


if __name__ == "__main__":
    sys.exit(main())
