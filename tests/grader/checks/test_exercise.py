"""A check made from its exercise's name, and the draws that its data are made of."""

import numpy as np
import torch

from grader.checks.exercise import every_kind, exercise, normal
from grader.labs.lab03_lora import drive, reference


def test_an_exercise_finds_its_drive_and_reference_by_name() -> None:
    check = exercise(
        "lab03_lora", "lora_delta", 3, lambda rng: {}, "look.", hints={"other": {"": "no."}}
    )
    assert check.drive is drive.lora_delta
    assert check.reference() is reference.lora_delta
    assert check.hint_for("anything") == "look."


def test_normal_numbers(rng: np.random.Generator) -> None:
    drawn = normal(rng, 40, 50)
    assert (drawn.shape, drawn.dtype) == ((40, 50), torch.float32)
    assert abs(drawn.mean()) < 0.1
    assert abs(drawn.std() - 1) < 0.1


def test_every_kind_is_there_and_no_place_is_its_own(rng: np.random.Generator) -> None:
    orders = [every_kind(rng, "abc", more=2) for _ in range(50)]
    assert all(len(order) == 5 and set(order) == set("abc") for order in orders)
    assert all({order[place] for order in orders} == set("abc") for place in range(5))
