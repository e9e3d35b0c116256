"""The scan sees what must not go out, and does not see ghosts."""

import copy
import shutil
from pathlib import Path

import pytest

from grader.course import Course
from grader.notebooks import Notebook, grade_id, read_notebook, source
from grader.release.generate import all_answers
from grader.release.leaks import answers_of, hidden_lines, is_nearly_a_marker, scan
from grader.release.overlap import Answer, Answers, tokens

LAB = "lab03_lora"
FILES = ("envelope.json",)
REGION = "scaling = alpha / math.sqrt(R) if use_rslora else alpha / R"


class Pair:
    """A solved notebook, its release and the release's folder, to be spoilt."""

    def __init__(self, course: Course, folder: Path, answers: Answers) -> None:
        shutil.copytree(course.release(LAB).parent, folder)
        self.solution = copy.deepcopy(read_notebook(course.source(LAB)))
        self.release = copy.deepcopy(read_notebook(course.release(LAB)))
        self.folder, self.answers = folder, answers

    def leaks(self) -> list[str]:
        return scan(self.solution, self.release, self.folder, FILES, self.answers)


@pytest.fixture(scope="module")
def answers(real_course: Course) -> Answers:
    return all_answers(real_course)


@pytest.fixture
def pair(real_course: Course, tmp_path: Path, answers: Answers) -> Pair:
    return Pair(real_course, tmp_path / LAB, answers)


def cell_named(notebook: Notebook, name: str) -> dict:
    return next(c for c in notebook["cells"] if name in (grade_id(c), c.get("id")))


def an_untagged(notebook: Notebook, kind: str) -> dict:
    return next(c for c in notebook["cells"] if c["cell_type"] == kind and not grade_id(c))


@pytest.mark.parametrize(
    "line",
    [
        "### BEGIN HIDDEN TEST", "### END SOLUTIONS", "### begin solution",
        "### Begin Hidden Tests", "# BEGIN SOLUTION", "## END HIDDEN TESTS",
        "BEGIN HIDDEN TESTS", "END SOLUTION",
        "###BEGIN SOLUTION", "### BEGIN SOLUTION:", "### BEGIN_SOLUTION", "### BEGIN SOLTUION",
        "### BEIGN HIDDEN TESTS", "### BEGIN THE SOLUTION", "### HIDDEN TESTS",
        "### END MARKSCHEME", "    x = 1  ### END SOLUTION",
        "a long line of prose that says where the ### BEGIN SOLUTION of a cell has to stand",
        "### BEGIN SOLUTION ", "### HASHED AUTOTEST f(2)", "### Hashed Autotest f(2)",
        "    # AUTOTEST f(2); g(3)",
        "### AUTOTEST merge_weight(weight, lora_A, lora_B, 2.0); merge_weight(weight, lora_A)",
    ],
)  # fmt: skip
def test_what_is_nearly_a_marker(line: str) -> None:
    assert is_nearly_a_marker(line)


@pytest.mark.parametrize(
    "line",
    [
        "### BEGIN SOLUTION",
        "    ### END HIDDEN TESTS",
        "### Begin with the shapes",
        "# the end of the sequence",
        "end = begin + window",
        "def test_solution():",
        "AUTOTEST = None",
        "a long line of prose that speaks of the end of a solution and of nothing else",
        "",
    ],
)
def test_what_is_not(line: str) -> None:
    assert not is_nearly_a_marker(line)


def test_a_misspelt_marker(pair: Pair) -> None:
    hidden = cell_named(pair.solution, "hidden_lora_delta")
    hidden["source"] = source(hidden).replace("HIDDEN TESTS", "HIDDEN TEST")
    assert ["looks like a marker" in leak for leak in pair.leaks()] == [True, True]


def test_stray_metadata_and_outputs(pair: Pair) -> None:
    pair.release["metadata"]["answers"] = "here"
    pair.release["metadata"]["kernelspec"]["answers"] = "here"
    pair.release["metadata"]["language_info"] = {"answers": "here"}
    pair.release["answers"] = "here"
    setup = cell_named(pair.release, "setup")
    setup["metadata"]["solution"] = "here"
    setup["metadata"]["nbgrader"]["answer"] = "here"
    setup["metadata"]["tags"] = ["alpha / R"]
    setup["attachments"] = {"answer.png": {}}
    setup["outputs"] = [{"output_type": "stream", "text": ["fine\n"]}]
    found = pair.leaks()
    assert len(found) == 9, found
    assert found[-1] == "cell setup: it has outputs"
    setup["outputs"], setup["execution_count"] = [], 3
    assert pair.leaks()[-1] == "cell setup: it has outputs"


def test_markers_and_hidden_lines_in_the_release(pair: Pair) -> None:
    setup, hidden = (cell_named(pair.release, name) for name in ("setup", "hidden_lora_delta"))
    setup["source"] = source(setup) + "\n### END SOLUTION"
    hidden["source"] = '  check.hidden("lora_delta", lora_delta)'
    assert pair.leaks() == [
        "cell setup: a marker is still in it",
        "cell hidden_lora_delta: a line of the hidden tests is in it",
    ]


def test_files_beside_the_notebook(pair: Pair) -> None:
    (pair.folder / "answers").mkdir()
    (pair.folder / "answers" / "all.py").write_text("x = 1")
    (pair.folder / "link").symlink_to("/nowhere")
    (pair.folder / "envelope.json").rename(pair.folder / ".ipynb_checkpoints")
    (pair.folder / "linked").symlink_to(pair.folder / "answers")
    assert [leak.partition(" ")[0] for leak in pair.leaks()] == [
        "answers/all.py",
        "link",
        "linked",
        "envelope.json",
    ]
    (pair.folder / "linked").unlink()
    (pair.folder / "envelope.json").write_text(f'{{"note": "{REGION}"}}')
    (pair.folder / ".ipynb_checkpoints").unlink()
    found = pair.leaks()
    assert [leak.partition(" ")[0] for leak in found] == [
        "answers/all.py",
        "link",
        "envelope.json:",
    ]


@pytest.mark.parametrize(
    "text",
    [
        f"It's easy: `{REGION}`",
        "# " + REGION.replace(" / ", "/"),
        "scaling = (alpha  # one\n / math  # two\n .sqrt(R)  # three\n if use_rslora else 1)",
        "<code>" + REGION.replace(" ", "&#32;") + "</code>",
        "scaling = alpha / \\\n    math.sqrt(R) if use_rslora else 1",
    ],
)
@pytest.mark.parametrize("kind", ["markdown", "code"])
def test_a_run_of_solution_tokens(pair: Pair, kind: str, text: str) -> None:
    an_untagged(pair.release, kind)["source"] = text
    assert [f"repeats the solution of {LAB}/lora_delta" in leak for leak in pair.leaks()] == [True]


def test_a_run_in_an_output(pair: Pair) -> None:
    cell = an_untagged(pair.release, "code")
    cell["outputs"] = [{"data": {"text/plain": [f"<{REGION}>"]}, "output_type": "display_data"}]
    assert len(pair.leaks()) == 2


def test_seven_tokens_are_no_run_and_idioms_are_nobodys(pair: Pair) -> None:
    cell = an_untagged(pair.release, "markdown")
    cell["source"] = " ".join(tokens(REGION)[:7])
    assert pair.leaks() == []
    cell["source"] = " ".join(tokens(REGION)[:8])
    assert len(pair.leaks()) == 1
    cell["source"] = "with torch.no_grad():\n    pass"
    assert pair.leaks() == []


def test_the_frame_of_an_autograd_function_is_nobodys() -> None:
    frame = "class {}(torch.autograd.Function):\n    @staticmethod\n    def {}(ctx, {}): {}"
    answers = Answers(
        [Answer(lab=LAB, cell="one", text=frame.format("A", "forward", "x", "a + b"))]
    )
    assert answers.repeated_in(frame.format("B", "forward", "y", "c"), lab=LAB) == ""
    assert answers.repeated_in(frame.format("A", "forward", "x", "a + b"), lab=LAB, length=7) != ""


def test_a_run_of_another_labs_solution(pair: Pair) -> None:
    cell = an_untagged(pair.release, "markdown")
    cell["source"] = "cache.keys[:, :, old:S] = k\ncache.values[:, :, old:S] = v"
    assert ["lab09_generation/attend" in leak for leak in pair.leaks()] == [True]


@pytest.mark.parametrize("after", ["    return 1", "x = 1", "# the idea: divide by R"])
def test_text_after_the_answer(pair: Pair, after: str) -> None:
    cell = cell_named(pair.solution, "lora_delta")
    cell["source"] = source(cell) + "\n\n" + after
    assert [leak.endswith("and would be released") for leak in pair.leaks()] == [True]


def test_text_between_two_answers(pair: Pair) -> None:
    cell = cell_named(pair.solution, "lora_linear")
    cell["source"] = source(cell).replace(
        "\n\n    def forward", "\n        y = 2\n\n    def forward"
    )
    assert ["'y = 2' comes after" in leak for leak in pair.leaks()] == [True]


@pytest.mark.parametrize(
    "code",
    ["def lora_delta(*args):\n    return 1", "lora_delta = f(1)", "async def lora_delta(): 1"],
)
def test_code_in_a_cell_that_nothing_clears(pair: Pair, code: str) -> None:
    an_untagged(pair.solution, "code")["source"] = code
    assert "defines lora_delta and is no solution cell" in " ".join(pair.leaks())


@pytest.mark.parametrize(
    "text",
    [
        "**Answer:** both are zero.",
        "Model answer: both are zero.",
        "### Model answer\n\nBoth are zero.",
        "<details><summary>Answer</summary>Both are zero.</details>",
    ],
)
def test_prose_in_a_cell_that_nothing_clears(pair: Pair, text: str) -> None:
    an_untagged(pair.solution, "markdown")["source"] = f"Now think.\n\n{text}"
    assert ["in a cell that nothing clears" in leak for leak in pair.leaks()] == [True]


def test_unmarked_solutions_and_unlocked_checks(pair: Pair) -> None:
    cell_named(pair.solution, "diagnose")["source"] = "def diagnose(): return 1"
    cell_named(pair.solution, "check_diagnose")["metadata"]["nbgrader"]["locked"] = False
    found = pair.leaks()
    assert [leak.partition(": ")[2] for leak in found] == [
        "a solution cell without ### BEGIN SOLUTION",
        "a graded cell that is not locked",
    ]


def test_a_written_answer_is_graded_and_not_locked(pair: Pair) -> None:
    metadata = {"grade": True, "solution": True, "locked": False, "grade_id": "essay", "points": 2}
    for notebook in (pair.solution, pair.release):
        notebook["cells"].append(
            {"cell_type": "markdown", "metadata": {"nbgrader": metadata}, "source": "", "id": "e"}
        )
    assert pair.leaks() == []


def test_hidden_lines(pair: Pair) -> None:
    hidden = cell_named(pair.solution, "hidden_diagnose")
    hidden["source"] = source(hidden).replace("check.hidden", "if True:\n    check.hidden")
    lines = hidden_lines(pair.solution)
    assert {"if True:", 'check.hidden("diagnose", diagnose)'} <= lines
    assert not any("More inputs" in line for line in lines)


def test_answers_know_their_place(pair: Pair) -> None:
    made = answers_of({LAB: pair.solution})
    assert made.repeated_in(REGION).startswith(f"the solution of {LAB}/lora_delta: scaling = alpha")
