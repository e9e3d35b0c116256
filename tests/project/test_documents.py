"""Links in documents and notebooks lead to what is there."""

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = sorted(
    [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("datasets/*/*.md")]
    + [p for folder in ("chapters", "labs", "solutions") for p in ROOT.glob(f"{folder}/*/*.ipynb")]
)
LINK = re.compile(r"\]\(([^)\s]+)\)")
FENCED = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
ELSEWHERE = ("http://", "https://", "mailto:", "data:", "attachment:")


def prose(path: Path) -> str:
    """A document without its blocks of code; of a notebook the markdown cells."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".ipynb":
        cells = json.loads(text)["cells"]
        text = "\n\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")
    return FENCED.sub("", text)


def anchors(path: Path) -> set[str]:
    """The names that GitHub gives a document's headings."""
    words = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in HEADING.findall(prose(path)))
    return {text.strip().replace(" ", "-") for text in words}


def leads_nowhere(path: Path, link: str) -> bool:
    name, _, anchor = link.partition("#")
    target = path.parent / name if name else path
    if not target.exists():
        return True
    return bool(anchor) and target.suffix == ".md" and anchor not in anchors(target)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_relative_links_lead_somewhere(path: Path) -> None:
    links = [link for link in LINK.findall(prose(path)) if not link.startswith(ELSEWHERE)]
    assert [link for link in links if leads_nowhere(path, link)] == []


def test_there_are_links_and_a_dead_one_is_seen(tmp_path: Path) -> None:
    assert len(LINK.findall(prose(ROOT / "README.md"))) > 10
    page = tmp_path / "page.md"
    page.write_text("# A `b`, c\n\n[here](#a-b-c)\n\n```\n# code\n[no](link)\n```\n")
    assert LINK.findall(prose(page)) == ["#a-b-c"]
    dead = [n for n in ("#a-b-c", "#code", "page.md", "gone.md") if leads_nowhere(page, n)]
    assert dead == ["#code", "gone.md"]
