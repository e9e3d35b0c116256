"""k follows acceptance, up and down, and is the formula's best."""

import pytest

from labkit.inference.speculation.lookahead import Lookahead, LookaheadConfig
from labkit.inference.speculation.rejection import speedup


def test_k_is_the_best_of_the_formula_at_the_estimated_rate():
    lookahead = Lookahead(LookaheadConfig(most=8, cost=0.2, memory=1.0))
    assert lookahead.acceptance == 0.5
    for proposed, accepted in ((2, 2), (2, 1), (4, 0), (3, 3)):
        lookahead.update(proposed=proposed, accepted=accepted)
    # Accepted 6, rejected 2; what follows a rejection was not tested. One of each goes before.
    assert lookahead.acceptance == pytest.approx(7 / 10)
    gains = {k: speedup(0.7, k, cost=0.2) for k in range(1, 9)}
    assert lookahead.draft_tokens == max(gains, key=gains.get)


def test_k_rises_with_acceptance_and_falls_with_it_again():
    lookahead = Lookahead(LookaheadConfig(most=6, cost=0.1))
    for _ in range(30):
        lookahead.update(proposed=6, accepted=6)
    assert lookahead.draft_tokens == 6
    for _ in range(30):
        lookahead.update(proposed=6, accepted=0)
    assert lookahead.draft_tokens == 1


def test_old_passes_fade():
    fading = Lookahead(LookaheadConfig(memory=0.5))
    for _ in range(3):
        fading.update(proposed=1, accepted=1)
    fading.update(proposed=1, accepted=0)
    accepted = 0.5 + 0.25 + 0.125
    assert fading.acceptance == pytest.approx((accepted + 1) / (accepted + 1 + 2))


def test_passes_without_proposals_change_nothing():
    lookahead = Lookahead(LookaheadConfig(memory=1.0))
    lookahead.update(proposed=0, accepted=0)
    assert lookahead.acceptance == 0.5


def test_a_fixed_k_stays():
    lookahead = Lookahead(LookaheadConfig(least=3, most=3))
    for accepted in (3, 0, 0, 0):
        lookahead.update(proposed=3, accepted=accepted)
        assert lookahead.draft_tokens == 3


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"least": 0}, "from 0 to 8"),
        ({"least": 3, "most": 2}, "from 3 to 2"),
        ({"cost": -0.1}, "cost=-0.1"),
        ({"memory": 0.0}, "memory=0.0"),
        ({"memory": 1.1}, "memory=1.1"),
    ],
)
def test_bad_values_are_named(values, message):
    with pytest.raises(ValueError, match=message):
        LookaheadConfig(**values)
