"""The schedule against transformers' and against its formula."""

import math

import pytest
import torch
from transformers import (
    get_cosine_schedule_with_warmup,
    get_cosine_with_min_lr_schedule_with_warmup,
)

from labkit.training.schedule import cosine_with_warmup

LR, STEPS = 3e-3, 47


def rates_of(make_scheduler):
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=LR)
    scheduler = make_scheduler(optimizer)
    rates = []
    for _ in range(STEPS):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


@pytest.mark.parametrize("warmup", [0, 1, 9])
def test_equals_transformers(warmup):
    theirs = rates_of(lambda o: get_cosine_schedule_with_warmup(o, warmup, STEPS))
    ours = [cosine_with_warmup(s, lr=LR, steps=STEPS, warmup_steps=warmup) for s in range(STEPS)]
    assert ours == pytest.approx(theirs, rel=1e-12)


@pytest.mark.parametrize("ratio", [0.0, 0.1, 1.0])
def test_equals_transformers_with_a_minimum(ratio):
    theirs = rates_of(
        lambda o: get_cosine_with_min_lr_schedule_with_warmup(o, 9, STEPS, min_lr_rate=ratio)
    )
    ours = [
        cosine_with_warmup(s, lr=LR, steps=STEPS, warmup_steps=9, min_lr_ratio=ratio)
        for s in range(STEPS)
    ]
    assert ours == pytest.approx(theirs, rel=1e-12)


def test_landmarks():
    def rate(step):
        return cosine_with_warmup(step, lr=1.0, steps=110, warmup_steps=10, min_lr_ratio=0.2)

    assert rate(0) == 0.0
    assert rate(5) == 0.5
    assert rate(10) == 1.0
    assert rate(60) == pytest.approx(0.6)
    assert rate(35) == pytest.approx(0.2 + 0.8 * (1 + math.cos(math.pi / 4)) / 2)
    assert rate(110) == pytest.approx(0.2)
    assert rate(1000) == pytest.approx(0.2)


def test_all_warm_up():
    assert cosine_with_warmup(4, lr=1.0, steps=5, warmup_steps=5) == pytest.approx(0.8)


def test_refuses_a_negative_step():
    with pytest.raises(ValueError, match="step=-1"):
        cosine_with_warmup(-1, lr=1.0, steps=5)
