"""Copies are found under new names and order; honest, released and common code is not."""

import pytest

from grader.course import Course
from grader.notebooks import grade_id, is_solution, read_notebook, source, write_notebook
from grader.python_tokens import normalised
from grader.similarity import pairs as similar_pairs
from grader.similarity.compare import Similarity
from grader.similarity.own_code import MAX_CELL_CHARACTERS
from grader.similarity.page import write
from grader.similarity.winnowing import GUARANTEE

from .handed_in import LAB, found, hand_in
from .lora_answers import ADA, BEN, DISGUISED, HELPERS


def names(similarity: Similarity) -> list[tuple[str, str]]:
    return [pair.students for pair in similarity.pairs]


def texts(code: str) -> list[str]:
    return [token.text for token in normalised(code)]


def test_a_copy_with_other_names_order_and_comments_is_found(empty: Course) -> None:
    hand_in(empty, "ada", {"train_step": HELPERS})
    hand_in(empty, "cem", {"train_step": DISGUISED})
    hand_in(empty, "ben", BEN)
    made = found(empty)
    assert names(made) == [("ada", "cem")]
    (pair,) = made.pairs
    assert pair.share > 0.9
    assert len(pair.matches) == 3
    starts = [(match.first.first_line, match.second.first_line) for match in pair.matches]
    assert starts == sorted(starts)
    assert [second for _, second in starts] == sorted((s for _, s in starts), reverse=True)


def test_a_copy_that_moved_to_another_cell_is_found(empty: Course) -> None:
    hand_in(empty, "ada", {"train_step": HELPERS})
    hand_in(empty, "cem", {"diagnose": DISGUISED})
    (pair,) = found(empty).pairs
    assert {match.second.cell for match in pair.matches} == {"diagnose"}


def test_a_match_does_not_go_over_the_end_of_a_cell(empty: Course) -> None:
    cells = {"lora_delta": "a.left(b, c.d[e])", "lora_linear": "a.right(b, c.d[e])"}
    assert len(texts(cells["lora_delta"])) < GUARANTEE < 2 * len(texts(cells["lora_delta"]))
    for student in ("ada", "ben"):
        hand_in(empty, student, cells)
    assert names(found(empty, least=GUARANTEE)) == []


def test_two_who_worked_alone_are_not_listed(empty: Course) -> None:
    hand_in(empty, "ada", ADA)
    hand_in(empty, "ben", BEN)
    assert names(found(empty)) == []


def test_a_short_answer_may_be_the_same(empty: Course) -> None:
    for student in ("ada", "ben", "cem"):
        hand_in(empty, student, {"merge_weight": ADA["merge_weight"]})
    assert names(found(empty)) == []
    assert len(found(empty, least=GUARANTEE).pairs) == 3


def test_the_reference_solution_is_left_out_and_shown_by_itself(empty: Course) -> None:
    solved = read_notebook(empty.source(LAB))["cells"]
    answers = {grade_id(cell): source(cell) for cell in solved if is_solution(cell)}
    for student in ("ada", "ben"):
        hand_in(empty, student, answers)
    made = found(empty, least=GUARANTEE)
    assert names(made) == []
    assert [submission.reference_share for submission in made.submissions] == [1, 1]
    empty.source(LAB).unlink()
    made = found(empty)
    assert names(made) == [("ada", "ben")]
    assert "no solved notebook" in made.notes[0]


def test_released_code_is_left_out(empty: Course) -> None:
    for student in ("ada", "ben"):
        hand_in(empty, student, {"train_step": HELPERS})
    assert names(found(empty)) == [("ada", "ben")]
    lecture = {
        "nbformat": 4,
        "cells": [{"cell_type": "code", "metadata": {}, "source": HELPERS, "outputs": []}],
    }
    write_notebook(empty.root / "chapters" / "training" / "01_lora.ipynb", lecture)
    assert names(found(empty, least=GUARANTEE)) == []


def test_stubs_and_setup_are_left_out(empty: Course) -> None:
    release = read_notebook(empty.release(LAB))["cells"]
    given = "\n".join(source(cell) for cell in release if cell["cell_type"] == "code")
    for student in ("ada", "ben"):
        hand_in(empty, student, {"train_step": f"{given}\n{student} = '{student}'"})
    assert names(found(empty)) == []
    hand_in(empty, "ben", {"train_step": given + HELPERS})
    hand_in(empty, "cem", {"train_step": HELPERS + given})
    (pair,) = found(empty).pairs
    assert pair.students == ("ben", "cem")
    marked = sum(match.first.last_line - match.first.first_line + 1 for match in pair.matches)
    assert marked < HELPERS.count("\n") + given.count("\n") / 3


def test_what_many_have_is_left_out_unless_asked_for(empty: Course) -> None:
    for number in range(11):
        hand_in(empty, f"s{number:02}", {"train_step": ADA["train_step"]})
    hand_in(empty, "x", {"apply_lora": BEN["apply_lora"]})
    hand_in(empty, "y", {"apply_lora": BEN["apply_lora"]})
    assert names(found(empty)) == [("x", "y")]
    made = found(empty, common=1)
    assert len(made.pairs) == 11 * 10 // 2 + 1
    assert [len(group) for group in made.groups] == [11]


@pytest.mark.parametrize(("holders", "listed"), [(10, True), (11, False)])
def test_what_ten_have_is_still_a_signal(empty: Course, holders: int, listed: bool) -> None:
    for number in range(holders):
        hand_in(empty, f"s{number:02}", {"train_step": ADA["train_step"]})
    assert bool(found(empty).pairs) is listed


def test_a_pair_is_listed_from_as_many_tokens_as_asked_for(empty: Course) -> None:
    for student in ("ada", "ben"):
        hand_in(empty, student, {"train_step": HELPERS})
    (pair,) = found(empty).pairs
    assert len(found(empty, least=pair.tokens).pairs) == 1
    assert len(found(empty, least=pair.tokens + 1).pairs) == 0


def test_groups_are_three_or_more_whom_close_pairs_connect(empty: Course) -> None:
    loss, apply, step = HELPERS, ADA["apply_lora"], BEN["train_step"]
    long = "\n".join(f"q.at{at}(a, b).of{at}(c)" for at in range(30))
    hand_in(empty, "ada", {"diagnose": loss})
    hand_in(
        empty,
        "ben",
        {"diagnose": loss, "apply_lora": apply, "train_step": step, "lora_linear": long},
    )
    hand_in(empty, "cem", {"apply_lora": apply})
    hand_in(empty, "dot", {"train_step": step, "lora_linear": long.replace("q.at", "q.by")})
    made = found(empty)
    assert set(names(made)) == {("ada", "ben"), ("ben", "cem"), ("ben", "dot")}
    assert made.groups == (("ada", "ben", "cem"),)


def test_a_syntax_error_does_not_stop_it(empty: Course) -> None:
    broken = HELPERS.replace("def counted(batches):", "def counted((batches:\n    s = 'open")
    hand_in(empty, "ada", {"train_step": HELPERS})
    hand_in(empty, "ben", {"train_step": broken})
    hand_in(empty, "cem", {"train_step": "from x import (\n" + HELPERS})
    made = found(empty)
    assert len(made.pairs) == 3
    assert min(pair.share for pair in made.pairs) > 0.8


def test_only_the_rarest_pairs_are_compared_when_there_are_too_many(
    empty: Course, monkeypatch: pytest.MonkeyPatch
) -> None:
    for student in ("s1", "s2", "s3", "s4"):
        hand_in(empty, student, {"train_step": ADA["train_step"]})
    hand_in(empty, "x", {"apply_lora": BEN["apply_lora"]})
    hand_in(empty, "y", {"apply_lora": BEN["apply_lora"]})
    monkeypatch.setattr(similar_pairs, "MAX_COMPARED", 1)
    made = found(empty)
    assert names(made) == [("x", "y")]
    assert made.notes == ("6 pairs share only what many have; they were not compared in full.",)


def test_places_are_kept_of_the_closest_pairs_only(
    empty: Course, monkeypatch: pytest.MonkeyPatch
) -> None:
    hand_in(empty, "ada", {"train_step": HELPERS})
    hand_in(empty, "ben", {"train_step": HELPERS, "apply_lora": BEN["apply_lora"]})
    hand_in(empty, "cem", {"apply_lora": BEN["apply_lora"]})
    whole = found(empty)
    monkeypatch.setattr(similar_pairs, "MAX_PLACED", 1)
    made = found(empty)
    assert [pair.tokens for pair in made.pairs] == [pair.tokens for pair in whole.pairs]
    assert made.pairs[0] == whole.pairs[0]
    assert (made.pairs[1].matches, bool(whole.pairs[1].matches)) == ((), True)
    assert "ben and cem" in write(empty, made)[0].read_text(encoding="utf-8")


def test_what_was_graded_is_compared_and_what_cannot_be_is_named(empty: Course) -> None:
    hand_in(empty, "ada", {"train_step": HELPERS})
    hand_in(empty, "ben", {"train_step": HELPERS}, graded=True)
    hand_in(empty, "ben", {"train_step": BEN["train_step"]})
    hand_in(empty, "cem", {"train_step": HELPERS}).write_text("{")
    hand_in(empty, "dot", {"train_step": HELPERS}).rename(
        empty.submitted(LAB, "dot").with_name("final.ipynb")
    )
    hand_in(empty, "fay", {"train_step": "\ud800"})
    hand_in(empty, "-rf <b>", {"train_step": HELPERS})
    hand_in(empty, "eli", {"train_step": "x = 1\n" * MAX_CELL_CHARACTERS})
    made = found(empty)
    assert names(made) == [("ada", "ben"), ("ada", "dot"), ("ben", "dot")]
    notes = "\n".join(made.notes)
    assert "'-rf <b>' cannot be a student's name" in notes
    assert f"cem was not compared: {LAB}.ipynb is not a notebook" in notes
    assert f"fay was not compared: {LAB}.ipynb is not a notebook" in notes
    (eli,) = (each for each in made.submissions if each.student == "eli")
    assert len(eli.cells["train_step"]) == MAX_CELL_CHARACTERS
    assert f"eli: of train_step the first {MAX_CELL_CHARACTERS} characters" in notes
