"""Compare the lectures' marked cells with what `make notebooks` has just got for them.

A marked cell begins with `# NBVAL_CHECK_OUTPUT`, as nbval has it. Its value depends on neither
machine nor scale, so the copies that a batch leaves in `reports/notebooks/` do at any scale, and no
lecture is executed twice.
"""

import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MARK = "# NBVAL_CHECK_OUTPUT"


def cells(path: Path) -> list[dict]:
    """The code cells of a notebook, but those that papermill has put in."""
    notebook = json.loads(path.read_text(encoding="utf-8"))
    return [
        cell
        for cell in notebook["cells"]
        if cell["cell_type"] == "code"
        and "injected-parameters" not in cell["metadata"].get("tags", ())
    ]


def text(value: str | list[str]) -> str:
    """Of a notebook's strings, which may be lists of lines."""
    return value if isinstance(value, str) else "".join(value)


def shown(cell: dict) -> list[tuple[str, ...]]:
    """What a cell shows, without its number; pieces of one stream are joined."""
    found: list[tuple[str, ...]] = []
    for output in cell["outputs"]:
        kind = output["output_type"]
        if kind == "stream":
            before = found.pop()[2] if found and found[-1][:2] == (kind, output["name"]) else ""
            found.append((kind, output["name"], before + text(output["text"])))
        elif kind == "error":
            found.append((kind, output["ename"], output["evalue"]))
        else:
            found += [(name, text(value)) for name, value in sorted(output["data"].items())]
    return found


def differences(lecture: Path, executed: Path) -> list[str]:
    """A sentence for each way in which they disagree."""
    if not executed.is_file():
        return [f"{lecture}: not executed yet, run `make notebooks` first"]
    pairs = list(zip(cells(lecture), cells(executed), strict=False))
    if [text(one["source"]) for one in cells(lecture)] != [text(two["source"]) for _, two in pairs]:
        return [f"{lecture}: changed since it was executed, run `make notebooks` again"]
    marked = [(one, two) for one, two in pairs if text(one["source"]).startswith(MARK)]
    if not marked:
        return [f"{lecture} marks no cell with {MARK!r}: mark one whose output is stable"]
    return [
        f"{lecture}, cell {one['id']}: stored {shown(one)}, now {shown(two)}"
        for one, two in marked
        if shown(one) != shown(two)
    ]


def main(root: Path = ROOT) -> int:
    found = []
    lectures = sorted(root.glob("chapters/*/*.ipynb"))
    for lecture in lectures:
        executed = root / "reports" / "notebooks" / lecture.relative_to(root)
        found += differences(lecture, executed)
    for difference in found:
        print(difference, file=sys.stderr)
    print(f"{len(lectures)} lectures compared with their stored outputs, {len(found)} differences")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
