"""DPO reaches the closed-form optimum; every method climbs; what does not fit is refused."""

import copy
import math

import pytest
import torch

from labkit.data.batch import TokenBatch
from labkit.data.preferences import (
    as_feedback,
    collate_feedback,
    collate_preferences,
    feedback_batches,
    preference_batches,
)
from labkit.objectives.preference import kto_baseline, kto_loss
from labkit.objectives.sequence_log_probs import sequence_log_probs
from labkit.training.config import TrainConfig
from labkit.training.forward import batch_logits
from labkit.training.preference import (
    PreferenceConfig,
    implicit_margins,
    preference_loss,
    train_preferences,
)

from .rising_policy import TASK, assert_untouched, frozen, mean_reward, policy_of, regained

SCALE = 5.0


def pairs(count, seed=3, scale=SCALE):
    return TASK.preferences(count, scale=scale, generator=torch.Generator().manual_seed(seed))


def tuned(method, steps, beta, count=2000, lr=1e-2):
    reference, generator = policy_of(), torch.Generator().manual_seed(4)
    policy, before = copy.deepcopy(reference), frozen(reference)
    if method == "kto":
        source = feedback_batches(
            as_feedback(pairs(count)), batch_size=200, pad_id=0, generator=generator
        )
    else:
        source = preference_batches(pairs(count), batch_size=200, pad_id=0, generator=generator)
    records = list(
        train_preferences(
            policy,
            None if method == "orpo" else reference,
            source,
            TrainConfig(steps=steps, lr=lr, warmup_steps=5),
            PreferenceConfig(method=method, beta=beta),
        )
    )
    assert_untouched(reference, before)
    return policy, reference, records


@pytest.mark.parametrize("beta", [0.2, 0.4])
def test_dpo_comes_to_the_optimum_of_reward_less_kl(beta):
    """Preferences drawn with rewards 5 r: DPO's optimum at 5 beta is pi* of r at beta."""
    policy, reference, records = tuned("dpo", 120, SCALE * beta, count=16_000, lr=4e-3)
    share, distance = regained(policy, reference, beta)
    assert records[0].loss_nats == pytest.approx(math.log(2), abs=1e-6)
    assert 0.7 < share <= 1.0
    assert distance < 0.15
    for other in (0.4 * beta, 3 * beta):
        assert regained(policy, reference, other)[1] > 1.5 * distance, "the optimum of another beta"


@pytest.mark.parametrize("method", ["ipo", "orpo", "kto"])
def test_the_others_climb(method):
    policy, reference, records = tuned(method, 40, 0.5)
    assert records[-1].loss_nats < records[0].loss_nats
    assert mean_reward(policy) > mean_reward(reference) + 0.1
    assert records[0].tokens == 200


@pytest.mark.parametrize("method", ["dpo", "ipo", "orpo"])
def test_accumulated_pairs_equal_one_batch(method):
    some, reference = pairs(6), policy_of(seed=8)
    whole = collate_preferences(some, pad_id=0)
    parts = [collate_preferences(some[i:j], pad_id=0) for i, j in ((0, 1), (1, 4), (4, 6))]
    preference = PreferenceConfig(method=method, beta=0.4)
    against = None if method == "orpo" else reference
    records = []
    for batches in ([whole], parts):
        config = TrainConfig(steps=1, lr=1e-3, accumulation=len(batches))
        records += train_preferences(policy_of(), against, batches, config, preference)
    one, many = records
    assert many.tokens == one.tokens == 6
    assert many.loss_nats == pytest.approx(one.loss_nats, rel=1e-5)
    assert many.grad_norm == pytest.approx(one.grad_norm, rel=1e-4)


@pytest.mark.parametrize("method", ["dpo", "ipo", "orpo"])
def test_tokens_of_the_prompt_do_not_count(method):
    """Labels alone decide: logits at prompt positions get no gradient."""
    batch = collate_preferences(pairs(4), pad_id=0)
    ids = torch.cat([torch.full((8, 3), 2), batch.ids], 1)  # a longer prompt
    labels = torch.cat([torch.full((8, 3), -100), batch.labels], 1)
    seen = []

    class Spy(torch.nn.Module):
        def forward(self, input_ids, position_ids, use_cache):
            logits = torch.sin(torch.arange(8 * 7 * 4) * 1.7).view(8, 7, 4).requires_grad_()
            seen.append(logits)
            return type("Output", (), {"logits": logits})

    reference = None if method == "orpo" else policy_of()
    loss = preference_loss(reference, PreferenceConfig(method=method, beta=0.4))
    loss(Spy(), TokenBatch(ids=ids, labels=labels))[0].backward()
    [logits] = seen
    assert not logits.grad[:, :3].any()
    assert not logits.grad[:, 6].any()
    assert logits.grad[:, 3:6].abs().sum(-1).min() > 0


def test_kto_takes_its_baseline_from_the_mismatched_rows():
    policy, reference = policy_of(seed=2), policy_of(seed=1)
    batch = collate_feedback(as_feedback(pairs(3)), pad_id=0)
    preference = PreferenceConfig(method="kto", beta=0.3, undesirable_weight=1.5)
    total, count = preference_loss(reference, preference)(policy, batch)
    ours, fixed, near, far = (
        sequence_log_probs(batch_logits(model, rows), rows.labels)[0]
        for rows in (batch, batch.mismatched)
        for model in (policy, reference)
    )
    expected = kto_loss(
        ours, fixed, batch.desirable, kto_baseline(near, far), beta=0.3, undesirable_weight=1.5
    )
    assert count == 6
    torch.testing.assert_close(total, expected.sum())


def test_implicit_margins_tell_chosen_from_rejected():
    policy, reference, _ = tuned("dpo", 40, 1.0)
    held_out = collate_preferences(pairs(300, seed=77, scale=50.0), pad_id=0)
    margins = implicit_margins(policy, reference, held_out, 1.0)
    chosen, rejected = TASK.rewards(held_out.ids).chunk(2)
    assert not implicit_margins(reference, reference, held_out, 1.0).any()
    assert (margins[chosen > rejected] > 0).float().mean() > 0.8
    assert (margins[chosen == rejected] > 0).float().mean() == pytest.approx(0.5, abs=0.2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"method": "ppo"}, "method='ppo' must be one of"),
        ({"beta": 0.0}, r"beta=0\.0 must be positive"),
        ({"label_smoothing": 0.5}, r"label_smoothing=0\.5"),
        ({"method": "ipo", "label_smoothing": 0.1}, "belongs to method='dpo', not 'ipo'"),
        ({"method": "kto", "desirable_weight": 0.0}, r"desirable_weight=0\.0"),
        ({"undesirable_weight": 2.0}, "belong to method='kto', not 'dpo'"),
    ],
)
def test_refuses_settings(change, message):
    with pytest.raises(ValueError, match=message):
        PreferenceConfig(**change)


def test_refuses_a_missing_or_useless_reference():
    with pytest.raises(ValueError, match="method='dpo' needs a reference"):
        preference_loss(None, PreferenceConfig())
    with pytest.raises(ValueError, match="method='orpo' takes no reference"):
        preference_loss(policy_of(), PreferenceConfig(method="orpo"))


def test_kto_refuses_pairs():
    loss = preference_loss(policy_of(), PreferenceConfig(method="kto"))
    with pytest.raises(ValueError, match="use feedback_batches"):
        loss(policy_of(), collate_preferences(pairs(2), pad_id=0))
