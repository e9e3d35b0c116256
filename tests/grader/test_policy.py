"""`policy.toml`: what it means, every mistake in one sentence; which attempt counts."""

import os
import tomllib
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from grader.box.tier import Tier
from grader.course import Course
from grader.gradebook.counting import attempts, choose, grade_counted, put_forward, to_grade
from grader.policy import FILE, LabPolicy, load_policy, parse
from grader.results import Result, Status

LAB, STUDENTS = "lab03_lora", ("ada", "ben", "cem")
DUE = datetime.fromisoformat("2026-03-01T23:59:00+01:00")
WHOLE = """
[late]
grace_minutes = 15
share = 0.1
cap = 0.25
zero_after_days = 7

[attempts]
counts = "best"
most = 3

[labs.lab03_lora]
due = 2026-03-01T23:59:00+01:00
excused = ["cem"]

[labs.lab03_lora.extensions]
ben = 2026-03-05T23:59:00+01:00

[labs.lab09_generation]
due = 2026-04-01T12:00:00Z
late = { per = "hour", share = 0.02 }
attempts = { counts = "first" }
"""


def policy_of(text: str) -> Any:
    return parse(tomllib.loads(text), labs=(LAB, "lab09_generation"), students=STUDENTS)


def late(rules: LabPolicy, student: str, **delay: float) -> float:
    assert rules.due is not None
    return rules.share_lost(student, rules.due + timedelta(**delay))


@pytest.mark.parametrize(
    ("delay", "share"),
    [
        ({"days": -3}, 0.0),
        ({}, 0.0),
        ({"minutes": 15}, 0.0),
        ({"minutes": 15, "seconds": 1}, 0.1),
        ({"days": 1}, 0.1),
        ({"days": 1, "seconds": 1}, 0.2),
        ({"days": 2, "seconds": 1}, 0.25),
        ({"days": 7}, 0.25),
        ({"days": 7, "seconds": 1}, 1.0),
    ],
)
def test_grace_started_days_cap_and_zero(delay: dict[str, float], share: float) -> None:
    assert late(policy_of(WHOLE).lab(LAB), "ada", **delay) == pytest.approx(share)


def test_a_labs_own_rules_extensions_and_excuses() -> None:
    policy = policy_of(WHOLE)
    rules = policy.lab(LAB)
    assert late(rules, "ben", days=4) == 0.0
    assert late(rules, "ben", days=4, hours=1) == 0.1
    assert late(rules, "cem", days=30) == 0.0
    hourly = policy.lab("lab09_generation")
    assert late(hourly, "ada", hours=3, minutes=1) == pytest.approx(0.08)
    assert (hourly.attempts.counts, hourly.attempts.most) == ("first", None)
    assert policy.lab("lab20_evaluation").due is None
    assert policy.lab("lab20_evaluation").attempts.counts == "best"


def test_the_servers_time_counts_in_any_zone() -> None:
    rules = policy_of(WHOLE).lab(LAB)
    assert rules.share_lost("ada", datetime(2026, 3, 1, 23, 14, tzinfo=UTC)) == 0.0
    assert rules.share_lost("ada", datetime(2026, 3, 1, 23, 15, tzinfo=UTC)) == 0.1


LAB_TABLE = "[labs.lab03_lora]\ndue = 2026-03-01T23:59:00+01:00\n"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[lates]", "unknown key lates; allowed are sandbox, late, attempts, labs"),
        ("late = 3", r"late is 3, must be a table, \[late\]"),
        ("[late]\nper = 'week'", "late.per is 'week', must be one of 'day', 'hour'"),
        ("[late]\nshare = 10", "late.share is 10, must be a number from 0 to 1"),
        ("[late]\nshare = true", "late.share is True, must be a number"),
        ("[late]\ncap = nan", "late.cap is nan, must be a number from 0 to 1"),
        ("[late]\ngrace_minutes = inf", "late.grace_minutes is inf, must be a number from 0 to"),
        ("[late]\nzero_after_days = -1", "zero_after_days is -1, must be a number from 0$"),
        ("[attempts]\nmost = 0", "attempts.most is 0, must be a whole number from 1"),
        ("[attempts]\ncounts = 'last'", "must be one of 'latest', 'best', 'first'"),
        ("[labs.lab99]", f"labs names 'lab99', which is none of the course's labs: {LAB}, lab09"),
        ("[labs.lab03_lora]\ndeu = 1", "unknown key labs.lab03_lora.deu; allowed are due, ex"),
        ("[labs.lab03_lora]\ndue = 2026-03-01", "lab03_lora.due is datetime.date"),
        ("[labs.lab03_lora]\ndue = 2026-03-01T23:59:00", "must be a date and time with its offset"),
        (LAB_TABLE + "excused = 'ada'", "excused is 'ada', must be a list of students"),
        (LAB_TABLE + "excused = ['zoe']", "labs.lab03_lora.excused names 'zoe'.*: ada, ben, cem"),
        (LAB_TABLE + "extensions = { zoe = 1 }", "extensions names 'zoe', which is none of the st"),
        (LAB_TABLE + "extensions = { ben = 'friday' }", "extensions.ben is 'friday', must be a da"),
        (
            LAB_TABLE + "extensions = { ben = 2026-02-01T00:00:00Z }",
            "extensions.ben is 2026-02-01 00:00:00.00:00, must be later than the lab's due date",
        ),
        (
            "[labs.lab03_lora]\nextensions = { ben = 2026-02-01T00:00:00Z }",
            r"must be later than the lab's due date \(not set\)",
        ),
    ],
)
def test_a_mistake_names_file_key_and_what_is_allowed(text: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence) as caught:
        policy_of(text)
    assert str(caught.value).startswith(f"{FILE}: ")
    assert "\n" not in str(caught.value)


def test_the_file_is_read_with_the_courses_own_labs_and_students(tmp_path: Path) -> None:
    course = Course(root=tmp_path)
    assert load_policy(course) is None
    course.release(LAB).parent.mkdir(parents=True)
    course.release(LAB).touch()
    course.submitted(LAB, "ada").parent.mkdir(parents=True)
    (tmp_path / FILE).write_text(LAB_TABLE + 'excused = ["ada"]\n')
    policy = load_policy(course)
    assert policy is not None
    assert policy.lab(LAB).due == DUE
    (tmp_path / FILE).write_text(LAB_TABLE + 'excused = ["ben"]\n')
    with pytest.raises(ValueError, match="'ben', which is none of the students known so far"):
        load_policy(course)
    (tmp_path / FILE).write_text("[late\n")
    with pytest.raises(ValueError, match=r"policy.toml is not valid TOML"):
        load_policy(course)


def test_the_example_in_the_docstring_is_a_policy() -> None:
    import grader.policy

    example = str(grader.policy.__doc__).split("\n\n", 1)[1].rsplit("\n\nEverything", 1)[0]
    assert policy_of(example).lab(LAB).late.zero_after_days == 7


def result_of(number: int, score: float, days_late: float, status: Status = Status.OK) -> Result:
    return Result(
        student="ada",
        lab=LAB,
        status=status,
        reason="",
        score=score,
        max_score=20.0,
        tier="",
        sha256=str(number),
        received=(DUE + timedelta(days=days_late)).isoformat(),
        seconds=0.0,
    )


def test_the_best_is_the_best_after_the_penalty_and_of_equals_the_first() -> None:
    rules = policy_of(WHOLE).lab(LAB)
    assert choose(rules, [result_of(1, 10, -1), result_of(2, 11, 0.5)]) == 0
    assert choose(rules, [result_of(1, 10, -1), result_of(2, 12, 0.5)]) == 1
    assert choose(rules, [result_of(1, 10, -2), result_of(2, 10, -1)]) == 0
    invalid = result_of(1, 0, -2, Status.INVALID)
    assert choose(rules, [invalid, result_of(2, 0, -1)]) == 1


def attempt(course: Course, number: int, received: float) -> Path:
    folder = course.root / "attempts" / LAB / "ada" / str(number)
    folder.mkdir(parents=True)
    (folder / f"{LAB}.ipynb").write_text(str(number))
    os.utime(folder, (received, received))
    return folder


@pytest.mark.parametrize(
    ("counts", "most", "numbers"),
    [
        ("latest", None, ["submitted"]),
        ("latest", 3, ["3"]),
        ("first", None, ["2"]),
        ("best", 3, ["2", "1", "3"]),
        ("best", None, ["2", "1", "3", "10"]),
    ],
)
def test_which_attempts_are_graded(
    tmp_path: Path, counts: str, most: int | None, numbers: list[str]
) -> None:
    course = Course(root=tmp_path)
    rules = replace(policy_of(WHOLE).lab(LAB))
    rules = replace(rules, attempts=replace(rules.attempts, counts=counts, most=most))
    waiting = course.submitted(LAB, "ada").parent
    assert to_grade(course, LAB, "ada", rules) == [waiting]
    for number, received in ((10, 10), (2, 1), (1, 2), (3, 3)):
        attempt(course, number, 1e9 + received)
    found = to_grade(course, LAB, "ada", rules)
    assert ["submitted" if path == waiting else path.name for path in found] == numbers


def test_the_attempt_that_counts_ends_in_submitted_with_its_time(tmp_path: Path) -> None:
    course, rules = Course(root=tmp_path), policy_of(WHOLE).lab(LAB)
    due = DUE.timestamp()
    for number, days in ((1, -2), (2, -1), (3, 5)):
        attempt(course, number, due + days * 86400)
    scores = {"1": 10.0, "2": 18.0, "3": 19.0}
    mine = course.submitted(LAB, "ada")
    graded = []

    def grade(student: str) -> tuple[Result, None]:
        graded.append(number := mine.read_text())
        received = datetime.fromtimestamp(mine.parent.stat().st_mtime, UTC).isoformat()
        return replace(result_of(int(number), scores[number], 0), received=received), None

    result, _ = grade_counted(course, LAB, rules, grade, "ada")
    assert (result.score, mine.read_text()) == (18.0, "2")
    assert result.received == (DUE - timedelta(days=1)).astimezone(UTC).isoformat()
    assert graded == ["1", "2", "3", "2"]
    assert [path.name for path in mine.parents[1].iterdir()] == [LAB]


def test_what_was_put_into_submitted_by_hand_becomes_an_attempt(tmp_path: Path) -> None:
    course = Course(root=tmp_path)
    mine = course.submitted(LAB, "ada")
    mine.parent.mkdir(parents=True)
    mine.write_text("by hand")
    os.utime(mine.parent, (1e9, 1e9))
    first = attempt(course, 1, 1e9)
    for _ in range(2):
        put_forward(course, LAB, "ada", first)
        (mine.parent / "timestamp.txt").write_text("as grading does")
        assert mine.read_text() == "1"
    kept = first.with_name("2")
    assert attempts(course, LAB, "ada") == [first, kept]
    assert ((kept / mine.name).read_text(), kept.stat().st_mtime) == ("by hand", 1e9)
    put_forward(course, LAB, "ada", mine.parent)
    assert mine.read_text() == "1"


def test_grading_below_the_least_tier_is_refused() -> None:
    policy = policy_of('[sandbox]\nleast = "namespaces"')
    policy.refuse_below(Tier.BUBBLEWRAP)
    policy.refuse_below(Tier.NAMESPACES)
    for tier in (Tier.CONTAINER, Tier.RLIMITS):
        with pytest.raises(ValueError, match=f"this is {tier}: nothing was graded"):
            policy.refuse_below(tier)
    policy_of("").refuse_below(Tier.RLIMITS)


def test_an_unknown_tier_is_named() -> None:
    with pytest.raises(ValueError, match=r"sandbox\.least is 'docker', must be one of 'rlimits'"):
        policy_of('[sandbox]\nleast = "docker"')
