"""Which names may be files, and what ids are made of people's names."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grader.course import is_safe_name
from grader.intake.limits import Limits, RefusedError
from grader.intake.names import checked, clash_keys, is_left_out, leaves_source, shown, student_id

LIMITS = Limits()


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("../x", "leaves the submission"),
        ("a/../../x", "leaves the submission"),
        ("a//x", "leaves the submission"),
        ("", "leaves the submission"),
        ("a/b/c/d/e/f/g/h/x", "deeper than 8"),
        ("a\\x", "has \\"),
        ("C:x", "has :"),
        ("a.ipynb:stream", "has :"),
        ("<x>|?.ipynb", r"has < > \? \|"),
        ("a\0.ipynb", "control"),
        ("a\n.ipynb", "control"),
        ("a\x1b[2J.ipynb", "control"),
        ("a\u2028.ipynb", "control"),
        ("a\u202exfdp.ipynb", "control"),
        ("a\udcff.ipynb", "no text"),
        ("con", "Windows"),
        ("NUL.ipynb", "Windows"),
        ("aux/x.ipynb", "Windows"),
        ("com1.tar.gz", "Windows"),
        ("lpt².txt", "Windows"),
        ("conout$", "Windows"),
        ("x.", "Windows"),
        ("x ", "Windows"),
        ("é" * 128, "longer than 255 bytes"),
    ],
)
def test_refused_paths(path: str, why: str) -> None:
    with pytest.raises(RefusedError, match=why.replace("\\", "\\\\") if "has \\" in why else why):
        checked(tuple(path.split("/")), LIMITS)


@pytest.mark.parametrize(
    "path",
    [
        "a.ipynb",
        " a.ipynb",
        "final (2).ipynb",
        "données/é.csv",
        "小明.ipynb",
        "👩‍💻.py",
        "-rf.txt",
        "=cmd().csv",
    ],
)
def test_allowed_paths(path: str) -> None:
    assert "/".join(checked(tuple(path.split("/")), LIMITS)) == path


def test_names_are_composed() -> None:
    assert checked(("e\u0301.py",), LIMITS) == ("\xe9.py",)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("A.py", "a.PY"),
        ("e\u0301.py", "\xe9.py"),
        ("stra\xdfe.py", "STRASSE.py"),
        ("ﬁ.py", "fi.py"),
        ("D/x.py", "d/X.py"),
        ("\u212a.py", "k.py"),
    ],
)
def test_what_is_one_file_on_some_system_has_one_key(first: str, second: str) -> None:
    a, b = (next(clash_keys(tuple(path.split("/")))) for path in (first, second))
    assert a == b


def test_folders_have_keys_too() -> None:
    assert list(clash_keys(("A", "b", "c"))) == ["a/b/c", "a/b", "a"]


@pytest.mark.parametrize("path", ["/etc/x", "C:/x", "c:x", "../x", "a/../x"])
def test_paths_that_leave_their_source(path: str) -> None:
    assert leaves_source(tuple(path.split("/")), 2)


def test_what_systems_add_is_left_out() -> None:
    for path in (".git/config", "a/.ipynb_checkpoints/x", "__MACOSX/._a", "a/Thumbs.DB"):
        assert is_left_out(tuple(path.split("/")))
    for path in ("timestamp.txt", "Timestamp.TXT", "submission_secret.txt"):
        assert is_left_out((path,))
    assert not is_left_out(("..", "x"))
    assert not is_left_out(("a", "git", "x.py"))


@given(st.text())
def test_an_id_is_safe_and_stable(name: str) -> None:
    made = student_id(name)
    assert is_safe_name(made)
    assert student_id(made) == made
    assert student_id(unicodedata.normalize("NFD", name)) == student_id(name)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("ada", "ada"),
        ("Ada.Doe@x.org", "Ada.Doe@x.org"),
        ("Ada  Doe", "ada-doe"),
        ("René Müller", "rene-muller"),
        ("../x", "x-"),
        ("-rf", "rf-"),
        ("<script>", "script-"),
        ("=cmd()", "cmd-"),
        ("王小明", "student-"),
        ("a" * 300, "a" * 80 + "-"),
    ],
)
def test_ids_made_of_names(name: str, expected: str) -> None:
    made = student_id(name)
    if expected.endswith("-"):
        assert made.startswith(expected)
        assert len(made) == len(expected) + 8
    else:
        assert made == expected


def test_different_people_keep_different_ids() -> None:
    names = ["王 Ada", "李 Ada", "Ada", "Ada!", "Ada?", "王小明", "李小明", "a" * 300, "a" * 301]
    assert len({student_id(name) for name in names}) == len(names)


@given(st.text())
def test_whatever_is_shown_is_one_printable_line(text: str) -> None:
    assert shown(text).isprintable()
    assert len(shown(text)) <= 100


@pytest.mark.parametrize(
    ("path", "whole"),
    [
        ("a:b.py", False),
        ("con/x.py", False),
        ("a\\b.py", True),
        ("a:b/..", True),
        ("x" * 256, False),
    ],
)
def test_only_tricks_cost_the_whole_submission(path: str, whole: bool) -> None:
    with pytest.raises(RefusedError) as caught:
        checked(tuple(path.split("/")), LIMITS)
    assert caught.value.whole == whole


def test_a_path_may_be_as_deep_as_the_limit() -> None:
    assert checked(("x",) * 8, LIMITS)
    with pytest.raises(RefusedError, match="deeper than 8"):
        checked(("x",) * 9, LIMITS)
