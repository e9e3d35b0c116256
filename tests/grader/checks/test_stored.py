"""The stored public checks judge as the real ones do on the public seed, and on no other."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from grader.checks import stored
from grader.checks.core import HIDDEN_SEEDS, PUBLIC_SEED, Lab, load_lab, run_check
from grader.course import find_course

LABS = find_course(Path(__file__).parent).labs()


@pytest.fixture(scope="module", params=LABS)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple:
    lab, folder = load_lab(request.param), tmp_path_factory.mktemp("stored")
    stored.write(lab, folder)
    return lab, stored.read(folder)


def test_everything_that_is_no_code_is_the_same(pair: tuple[Lab, Lab]) -> None:
    real, copy = pair
    for name in ("name", "teaches", "forbids", "files", "question_limit_s", "memory_bytes"):
        assert getattr(copy, name) == getattr(real, name)
    for mine, theirs in zip(copy.checks, real.checks, strict=True):
        for name in ("name", "points", "hint", "symbol", "tolerance", "seeds_hidden", "needs"):
            assert getattr(mine, name) == getattr(theirs, name)
        assert dict(mine.hints) == dict(theirs.hints)
        assert mine.drive is theirs.drive


def test_right_and_wrong_implementations_get_the_same_verdict(
    pair: tuple[Lab, Lab], mutants: Callable[[str, str], dict[str, Any]]
) -> None:
    real, copy = pair
    for mine, theirs in zip(copy.checks, real.checks, strict=True):
        assert run_check(mine, theirs.reference(), PUBLIC_SEED).message == ""
        for what, impl in mutants(real.name, mine.name).items():
            verdict = run_check(mine, impl, PUBLIC_SEED)
            assert not verdict.ok, (mine.name, what)
            assert verdict == run_check(theirs, impl, PUBLIC_SEED), (mine.name, what)


def test_other_seeds_and_the_reference_are_not_there(pair: tuple[Lab, Lab]) -> None:
    _, copy = pair
    for check in copy.checks:
        with pytest.raises(ValueError, match="the public check's data only"):
            check.inputs(np.random.default_rng(HIDDEN_SEEDS[0]))
        with pytest.raises(ValueError, match="the public check's data only"):
            check.reference()


def test_inputs_are_new_at_every_call(pair: tuple[Lab, Lab]) -> None:
    check = pair[1].checks[0]
    first, second = (check.inputs(np.random.default_rng(PUBLIC_SEED)) for _ in range(2))
    assert first is not second
    arrays = [key for key, value in first.items() if hasattr(value, "shape")]
    assert all(first[key] is not second[key] for key in arrays)
