"""Every lab: a question gives no diagnosis away, and an answer has to show more than flags."""

import ast
from collections.abc import Callable
from pathlib import Path
from runpy import run_path
from typing import Any

import numpy as np
import pytest
import torch

from grader.box import content
from grader.box.frames import HEADER, decode, encode
from grader.checks.core import PUBLIC_SEED, UNCHANGED, Arrays, Check, load_lab
from grader.checks.outside import Outside
from grader.course import find_course

LABS = find_course(Path(__file__).parent).labs()
SEEDS = (PUBLIC_SEED, 1, 2, 3, 4)
CHECKS = [pytest.param(c, id=f"{lab}-{c.name}") for lab in LABS for c in load_lab(lab).checks]
texts: Callable[..., set[str]] = run_path(str(Path(__file__).parents[1] / "reach.py"))["texts"]


def sent(question: Arrays) -> bytes:
    """What a question is on its way into a box."""
    return encode(question, outside=[])


def received(question: Arrays) -> Arrays:
    """A question as a box has it; nobody answers its calls."""
    frame = sent(question)
    _, size = HEADER.unpack_from(frame)
    body = frame[HEADER.size :]
    return decode(body[:size], body[size:], lambda *_: torch.zeros(1))


def expected(check: Check, seed: int) -> Arrays:
    return check.expected(check.inputs(np.random.default_rng(seed)))


def leaves(value: Any) -> list[Any]:
    if type(value) is dict:
        value = list(value.values())
    return [x for item in value for x in leaves(item)] if type(value) in (list, tuple) else [value]


def is_evidence(leaf: Any) -> bool:
    """Whether it says more than yes or no everywhere, or how many there are."""
    if type(leaf) is torch.Tensor and leaf.dtype is torch.bool:
        return bool(leaf.any() and not leaf.all())
    return type(leaf) not in (bool, int)


@pytest.mark.parametrize("check", CHECKS)
def test_what_an_answer_must_show_differs_from_seed_to_seed(check: Check) -> None:
    shown = set()
    for seed in SEEDS:
        found = {key: v for key, v in expected(check, seed).items() if not key.endswith(UNCHANGED)}
        shown.add(encode({"v": [leaf for leaf in leaves(found) if is_evidence(leaf)]}))
    assert len(shown) == len(SEEDS)


DRAWN_OR_JOINED = ("the global random state", ": values left", ": requires_grad left", ": .grad")


@pytest.mark.parametrize("check", CHECKS)
def test_labkit_leaves_what_it_is_given_as_it_was(check: Check) -> None:
    """Of other findings in the same form the tests of their lab say what they are to be."""
    given = {sent({"v": leaf}) for leaf in leaves(check.inputs(np.random.default_rng(7)))}
    for key, value in expected(check, 7).items():
        if key.endswith(UNCHANGED) and not any(words in key for words in DRAWN_OR_JOINED):
            assert leaves(value), key
            assert all(sent({"v": leaf}) in given for leaf in leaves(value)), key


def diagnoses(lab: str, seed: int) -> tuple[Check, set[str]]:
    """A lab's diagnose and all answers that are right somewhere."""
    check = load_lab(lab).check("diagnose")
    found = {v for key, v in expected(check, seed).items() if type(v) is str}
    assert len(found) == 5
    return check, found


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("lab", LABS)
def test_no_diagnosis_is_sent_or_lies_in_what_is_to_be_diagnosed(lab: str, seed: int) -> None:
    check, names = diagnoses(lab, seed)
    question, handed = check.question(seed), []
    frame = sent(question)
    assert [name for name in names if name.encode() in frame] == []

    def impl(*arguments: Any) -> str:
        handed.append(arguments)
        return ""

    check.drive(impl, received(question))
    assert len(handed) >= len(names)
    assert texts(handed, check.drive) & names == set()


@pytest.mark.parametrize("lab", LABS)
def test_the_code_beside_a_students_names_no_diagnosis(lab: str, tmp_path: Path) -> None:
    _, names = diagnoses(lab, PUBLIC_SEED)
    folder = content.build(load_lab(lab), tmp_path / "course") / "grader" / "labs" / lab
    found = {path.name: path.read_text() for path in folder.iterdir()}
    assert set(found) <= {"__init__.py", "drive.py", "given.py"}
    constants = [
        node.value
        for code in found.values()
        for node in ast.walk(ast.parse(code))
        if isinstance(node, ast.Constant)
    ]
    assert [value for value in constants if value in names] == []


STAYS_OUTSIDE = [lab for lab in LABS if load_lab(lab).check("diagnose").hand_over]


@pytest.mark.parametrize("lab", STAYS_OUTSIDE)
def test_a_question_is_the_same_whatever_the_faults_are(lab: str) -> None:
    check = load_lab(lab).check("diagnose")
    assert check.hand_over
    inputs = check.inputs(np.random.default_rng(1))
    faults = [case["fault"] for case in inputs["cases"]]
    turned = [case | {"fault": f} for case, f in zip(inputs["cases"], faults[::-1], strict=True)]
    first, second = (check.hand_over(x) for x in (inputs, {"cases": turned}))
    assert faults != faults[::-1]
    assert sent(first) == sent(second)
    assert {type(leaf) for leaf in leaves(first)} == {int, Outside}


def test_two_labs_keep_what_is_diagnosed_outside() -> None:
    assert STAYS_OUTSIDE == [
        "lab01_minillm",
        "lab02_pretraining",
        "lab04_qlora",
        "lab05_peft_methods",
        "lab06_parallelism",
        "lab07_training_efficiency",
        "lab08_alignment",
        "lab09_generation",
        "lab10_paged_attention",
        "lab11_speculative_and_structured",
        "lab12_multi_adapter_serving",
        "lab15_quantization",
    ]
