"""The page, the JSON file and the command: escaped, marked on both sides, no score."""

import json
import re
from base64 import b64encode
from hashlib import sha256
from html import unescape

import pytest

from grader.cli.main import main
from grader.course import Course
from grader.notebooks import read_notebook
from grader.similarity.compare import SIGNAL
from grader.similarity.page import write
from grader.similarity.winnowing import GUARANTEE
from grader.transplant import transplant

from .handed_in import LAB, found, hand_in
from .lora_answers import ADA, DISGUISED, HELPERS


def test_the_page_escapes_runs_nothing_and_says_what_it_is(empty: Course) -> None:
    evil = "<script>alert(1)</script></pre></style><img src=x onerror=alert(2)>\0"
    code = f"# {evil}\n{HELPERS}\n# {evil}\nx = '{evil}'\n# {evil}"
    for student in ("ada", "ben"):
        hand_in(empty, student, {"train_step": code})
    hand_in(empty, "cem", {"train_step": f"exec('{evil}')"})
    html, beside = (path.read_text(encoding="utf-8") for path in write(empty, found(empty)))
    assert html.count("&lt;script&gt;alert(1)") == 2 * code.count(evil) + 1
    assert "<script" not in html
    assert "<img" not in html
    assert html.count("</style>") == 1
    assert "default-src 'none'; style-src 'sha256-" in html
    style = html.split("<style>")[1].split("</style>")[0]
    assert b64encode(sha256(style.encode()).digest()).decode() in html.split("<style>")[0]
    assert SIGNAL in html
    assert json.loads(beside)["signal"] == SIGNAL
    assert not list(empty.reports(LAB).glob("*.part"))


def test_matches_are_marked_with_their_number_on_both_sides(empty: Course) -> None:
    hand_in(empty, "ada", {"train_step": HELPERS})
    hand_in(empty, "cem", {"train_step": DISGUISED})
    html = write(empty, found(empty))[0].read_text(encoding="utf-8")
    sides = [part.split("</pre>")[0] for part in html.split("<pre>")[1:]]
    assert [re.findall(r"\[(\d)\]", side) for side in sides] == [list("123"), list("321")]
    for side, code in zip(sides, (HELPERS, DISGUISED), strict=True):
        marked = re.sub(r'<span class="run">.*?</span>', "", side)
        assert unescape(re.sub(r"<.*?>", "", marked)).strip() == code.strip()
        stretches = re.findall(r'<span class="match">(.*?)</span>', marked, re.DOTALL)
        assert any("log_softmax" in stretch for stretch in stretches)


def test_the_json_file_says_where(empty: Course) -> None:
    hand_in(empty, "ada", {"train_step": HELPERS})
    hand_in(empty, "ben", {"train_step": "pass\n\n" + HELPERS})
    _, path = write(empty, found(empty))
    data = json.loads(path.read_text(encoding="utf-8"))
    (match,) = data["pairs"][0]["matches"]
    assert (match["first"]["first_line"], match["second"]["first_line"]) == (2, 4)
    assert match["first"]["last_line"] == HELPERS.rstrip().count("\n") + 1
    assert data["pairs"][0]["students"] == ["ada", "ben"]
    assert data["groups"] == []
    assert "log_softmax" not in path.read_text(encoding="utf-8")


def test_the_command_writes_a_report_and_nothing_else(
    empty: Course, capsys: pytest.CaptureFixture[str]
) -> None:
    hand_in(empty, "ada", {"train_step": HELPERS})
    hand_in(empty, "ben", {"train_step": HELPERS})
    hand_in(empty, "cem", {}).write_text("{")
    before = {path: path.read_bytes() for path in empty.root.rglob("*") if path.is_file()}
    assert main(["--root", str(empty.root), "similarity", LAB]) == 0
    out, err = capsys.readouterr()
    assert f"grader: cem was not compared: {LAB}.ipynb is not a notebook" in err
    assert "Submissions: 2; pairs to look at: 1; flagged lines: 0." in out
    after = {path: path.read_bytes() for path in empty.root.rglob("*") if path.is_file()}
    made = {path.relative_to(empty.root).as_posix() for path in after.keys() - before.keys()}
    assert made == {f"reports/{LAB}/similarity.html", f"reports/{LAB}/similarity.json"}
    assert {path: after[path] for path in before} == before


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([LAB], f"there is no submission of {LAB} to compare"),
        (["lab99"], "lab99 is not released"),
        ([LAB, "--least", "5"], f"--least 5 must be at least {GUARANTEE} tokens"),
        ([LAB, "--common", "0"], "--common 0 must be a share"),
        ([LAB, "--common", "nan"], "--common nan must be a share"),
    ],
)
def test_a_mistake_is_one_sentence(
    empty: Course, capsys: pytest.CaptureFixture[str], arguments: list[str], sentence: str
) -> None:
    assert main(["--root", str(empty.root), "similarity", *arguments]) == 2
    assert sentence in capsys.readouterr().err


def test_flags_are_on_the_page_and_cost_nothing(empty: Course) -> None:
    path = hand_in(empty, "ada", {"train_step": "import ctypes\n" + ADA["train_step"]})
    made = found(empty)
    assert [(flag.student, flag.cell, flag.line) for flag in made.flags] == [
        ("ada", "train_step", 1)
    ]
    html = write(empty, made)[0].read_text(encoding="utf-8")
    assert "import ctypes" in html
    release = read_notebook(empty.release(LAB))
    assert transplant(release, read_notebook(path)).notes == ()
