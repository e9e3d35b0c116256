"""What an instructor of three hundred students reads after a collecting."""

from datetime import UTC, datetime
from typing import Any

from grader.intake.limits import Limits
from grader.intake.manifest import Manifest, Refusal, Submission
from grader.intake.placing import State
from grader.intake.summary import MAX_NAMES, MAX_REASONS, summary

EXE = "files of type .exe are not taken (see --allow)"


def submission(number: int, state: State = State.COLLECTED, **rest: Any) -> Submission:
    received = "" if state is State.REFUSED else f"2026-03-01T12:{number % 60:02}:07+00:00"
    made = {"student": f"s{number:03}", "source": f"name_{number}", "received": received, **rest}
    return Submission(state=state, **made)


def manifest(*submissions: Submission, **rest: Any) -> Manifest:
    made = {"lab": "lab01", "source": "x.zip", "layout": "canvas", "roster": True, **rest}
    now = datetime(2026, 3, 2, tzinfo=UTC)
    return Manifest(collected=now, limits=Limits(), submissions=submissions, **made)


def test_a_clean_class_is_two_lines() -> None:
    lines = summary(manifest(*(submission(i) for i in range(300))))
    assert lines == [
        "lab01, layout canvas: 300 collected.",
        "Received 2026-03-01T12:00 to 2026-03-01T12:59, as the files' times say (see --received).",
    ]
    assert len(summary(manifest(submission(1), given="2026-03-01"))) == 1
    assert len(summary(manifest(submission(1), layout="exchange"))) == 1
    assert summary(manifest())[0] == "lab01, layout canvas: no submission."


def test_who_must_hand_in_again_comes_first_then_what_was_left_out() -> None:
    refused = {"refused": (Refusal(path="a/x.exe", why=EXE),)}
    left_out = [submission(i, **refused) for i in range(40)]
    no_book = [submission(i, State.REFUSED, why="there is no notebook") for i in (51, 52)]
    nobody = submission(60, State.REFUSED, why="it is somebody else's", student="")
    strays = (Refusal(path="readme.txt", why="it is nobody's"),)
    made = manifest(*left_out, *no_book, nobody, strays=strays, given="x")
    assert summary(made) == [
        "lab01, layout canvas: 40 collected, 3 refused.",
        "Refused as a whole, these 3 must be handed in again:",
        "  2 x there is no notebook",
        "      s051, s052",
        "  1 x it is somebody else's",
        "      name_60",
        "Left out, while all else was taken:",
        f"  40 x {EXE}",
        "      " + ", ".join(f"s{i:03}" for i in range(MAX_NAMES)) + f" and {40 - MAX_NAMES} more",
        "  1 x it is nobody's",
        "      readme.txt",
    ]


def test_it_stays_short() -> None:
    """Whatever three hundred students think of, each another thing."""
    reasons = [submission(i, State.REFUSED, why=f"reason {i}") for i in range(300)]
    lines = summary(manifest(*reasons))
    assert len(lines) == 3 + 2 * MAX_REASONS
    assert lines[-1] == f"  … and {300 - MAX_REASONS} reasons more, all in the manifest."


def test_what_to_look_at() -> None:
    late = submission(1, notes=("Canvas marked it late.",))
    told = submission(2, notes=("Its folder's name says 1999, which its student wrote.",))
    lines = summary(manifest(late, told, given="x", named_freely=("s1", "s2"), missing=("zoe",)))
    assert lines[1:] == [
        "Canvas marked late: s001.",
        "Received at another time than their folders' names say: s002.",
        "  Students write these names; of a copied exchange, see --trust-names.",
        "Ids made of names (not in the roster): s1, s2.",
        "In the roster and without a submission: zoe.",
    ]


def test_strangers_names_are_shown_on_one_line() -> None:
    odd = submission(1, State.REFUSED, why="x", student="", source="\x1b[31m\n" + "y" * 999)
    stray = Refusal(path="a\nb\u202e", why="y")
    lines = summary(manifest(odd, strays=(stray,)))
    assert all(line.isprintable() and len(line) < 200 for line in lines)
