"""Whose an entry is, for the names that platforms really make."""

import pytest

from grader.intake.layouts import assignment_of, choose, layouts

LAB, OTHER = "lab01_tiny", "lab02_other"
STAMP = "2026-03-01 12:00:00.123456 UTC"


def found(name: str, path: str, assignment: str = "") -> tuple | None:
    layout = layouts(LAB, [OTHER], assignment, ["13"])[name]
    origin, inner = layout.find(path) or (None, ())
    return (origin.key, origin.name, "/".join(inner)) if origin else None


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("doeada_12_345_a.ipynb", ("doeada_12", "doeada", "a.ipynb")),
        ("doeada_LATE_12_345_a.ipynb", ("doeada_12", "doeada", "a.ipynb")),
        (
            "van_der_bergada_12_345_a_b.ipynb",
            ("van_der_bergada_12", "van_der_bergada", "a_b.ipynb"),
        ),
        ("doeada_12_345_lab_9_9_x.ipynb", ("doeada_12", "doeada", "lab_9_9_x.ipynb")),
        ("小明王_12_345_a-1.ipynb", ("小明王_12", "小明王", "a-1.ipynb")),
        ("anon_aB3xY_345_a.ipynb", ("anon_aB3xY", "anon_aB3xY", "a.ipynb")),
        ("LATE_anon_aB3xY_345_a.ipynb", ("anon_aB3xY", "anon_aB3xY", "a.ipynb")),
        ("doeada_12_text.html", ("doeada_12", "doeada", "text.html")),
        ("doeada_12_345_a\nb.ipynb", ("doeada_12", "doeada", "a\nb.ipynb")),
        ("notes.ipynb", None),
        ("folder/doeada_12_345_a.ipynb", None),
    ],
)
def test_canvas(path: str, expected: tuple | None) -> None:
    assert found("canvas", path) == expected


@pytest.mark.parametrize(
    ("path", "late", "number", "doubtful"),
    [
        ("doeada_12_345_a.ipynb", False, "12", ""),
        ("doeada_LATE_12_345_a.ipynb", True, "12", ""),
        ("LATE_anon_aB3xY_345_a.ipynb", True, "", ""),
        ("roeben_12_13_345_a.ipynb", False, "12", "13"),
        ("roeben_12_14_345_a.ipynb", False, "12", ""),
        ("roeben_12_13_a.ipynb", False, "12", ""),
    ],
)
def test_what_canvas_says_beside_the_name(
    path: str, late: bool, number: str, doubtful: str
) -> None:
    origin, _ = layouts(LAB, [], "", ["13"])["canvas"].find(path)
    assert (origin.late, origin.number, origin.doubtful) == (late, number, doubtful)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("Ada Doe_11_assignsubmission_file_/a.ipynb", ("Ada Doe_11", "Ada Doe", "a.ipynb")),
        ("Ada Doe_11_assignsubmission_file/s/a.ipynb", ("Ada Doe_11", "Ada Doe", "s/a.ipynb")),
        ("Ada Doe_11_assignsubmission_file_a_b.ipynb", ("Ada Doe_11", "Ada Doe", "a_b.ipynb")),
        ("Ada Doe_11_assignsubmission_onlinetext_/t.html", ("Ada Doe_11", "Ada Doe", "t.html")),
        ("Participant_11_assignsubmission_file_/a", ("Participant_11", "Participant", "a")),
        ("Default group_assignsubmission_file_/a", ("Default group_None", "Default group", "a")),
        ("Ada Doe_11_assignsubmission_file_", None),
        ("Ada Doe/a.ipynb", None),
    ],
)
def test_moodle(path: str, expected: tuple | None) -> None:
    assert found("moodle", path) == expected


@pytest.mark.parametrize(
    ("folder", "user"),
    [
        (f"ada+{LAB}+{STAMP}+aGVs-bG8_", "ada"),
        (f"ada+{LAB}+2026-03-01 12:00:00 UTC", "ada"),
        (f"a+da@x.org+{LAB}+{STAMP}", "a+da@x.org"),
        (f"ada+{LAB}+yesterday", None),
        (f"ada+{OTHER}+{STAMP}", ""),
    ],
)
def test_exchange(folder: str, user: str | None) -> None:
    whose = found("exchange", f"{folder}/a.ipynb")
    assert (whose[1] if whose else None) == user


@pytest.mark.parametrize(
    ("path", "assignment", "expected"),
    [
        ("lab01-tiny-ada-doe/a.ipynb", "", ("lab01-tiny-ada-doe", "ada-doe", "a.ipynb")),
        (f"{LAB}-ada/a.ipynb", "", (f"{LAB}-ada", "ada", "a.ipynb")),
        ("week-1-ada/a.ipynb", "week-1", ("week-1-ada", "ada", "a.ipynb")),
        ("week-1-ada/a.ipynb", "", None),
        ("week-1-/a.ipynb", "week-1", None),
        (f"week-1-ada/labs/{LAB}/a.py", "week-1", ("week-1-ada", "ada", f"labs/{LAB}/a.py")),
        (f"week-1-ada/labs/{OTHER}/a.ipynb", "week-1", ("", "", "")),
        ("week-1-ada/labkit/a.py", "week-1", ("", "", "labkit/a.py")),
        ("week-1-ada/work/a.ipynb", "week-1", ("week-1-ada", "ada", "work/a.ipynb")),
    ],
)
def test_classroom(path: str, assignment: str, expected: tuple | None) -> None:
    assert found("classroom", path, assignment) == expected


def test_the_clones_folder_names_the_assignment() -> None:
    assert assignment_of("week-1-submissions", []) == "week-1"
    assert assignment_of("x", ["week-1-submissions/week-1-a/f", "week-1-submissions/b"]) == "week-1"
    assert assignment_of("x", ["a/f", "b/f"]) == ""


@pytest.mark.parametrize(
    ("names", "layout", "wrapped"),
    [
        ([f"ada/{LAB}/{LAB}.ipynb"], "folder", 0),
        ([f"ada/{LAB}.ipynb", "ben/final.ipynb"], "folder", 0),
        ([f"all/ada/{LAB}.ipynb", "all/ben/final.ipynb"], "folder", 1),
        ([f"{LAB}/ada/{LAB}.ipynb", f"{LAB}/ben/{LAB}.ipynb"], "folder", 1),
        (["./ada/x.ipynb", "./ben/y.ipynb"], "folder", 0),
        (["doeada_12_345_a.ipynb", "roeben_13_346_a.ipynb", "odd.ipynb"], "canvas", 0),
        (["d/doeada_12_345_a.ipynb", "d/roeben_13_346_a.ipynb"], "canvas", 1),
        (["A_1_assignsubmission_file_/a", "B_2_assignsubmission_file_/b"], "moodle", 0),
        ([f"inbound/ada+{LAB}+{STAMP}/a", f"inbound/b+{OTHER}+{STAMP}/b"], "exchange", 1),
        (["lab01-tiny-ada/README.md", "lab01-tiny-ben/a.ipynb"], "classroom", 0),
        ([".DS_Store", "__MACOSX/x", f"ada/{LAB}.ipynb"], "folder", 0),
        ([], "folder", 0),
        # names of files may look like another platform's, but not all of them do
        (
            ["doeada_12_345_a.ipynb", "roeben_13_346_a.ipynb"]
            + [f"eve_14_{i}_x+{LAB}+2026-03-01 12:00:00 UTC" for i in range(9)],
            "canvas",
            0,
        ),
        # one student's files do not change how a class is read
        (
            [f"ada/{LAB}.ipynb", f"ben/{LAB}.ipynb"]
            + [f"eve/x{i}_1_assignsubmission_file_/a" for i in range(9)],
            "folder",
            0,
        ),
    ],
)
def test_the_layout_is_recognised(names: list[str], layout: str, wrapped: int) -> None:
    chosen = choose(layouts(LAB, [OTHER], ""), "auto", LAB, names)
    assert (chosen.name, chosen.wrapped) == (layout, wrapped)
