"""A scalar head on a copy of the policy's body, read after the response, ranks held-out pairs."""

import math

import pytest
import torch

from labkit.data.batch import IGNORE_INDEX, TokenBatch
from labkit.data.preferences import collate_preferences, preference_batches
from labkit.objectives.preference import bradley_terry_loss
from labkit.training.config import TrainConfig
from labkit.training.reward_model import (
    TokenScorer,
    pair_loss,
    response_rewards,
    train_reward_model,
)

from .rising_policy import TASK, assert_untouched, frozen, policy_of


def pairs(count, seed=2):
    generator = torch.Generator().manual_seed(seed)
    return TASK.preferences(count, scale=8.0, generator=generator)


def scorer_of(seed=4):
    """With a head that is not zero."""
    scorer = TokenScorer(policy_of())
    with torch.no_grad():
        head = scorer.body.lm_head.weight
        head.normal_(generator=torch.Generator().manual_seed(seed))
    return scorer


def test_starts_at_zero_and_log_2():
    model = policy_of()
    state = torch.get_rng_state()
    scorer = TokenScorer(model)
    assert torch.equal(torch.get_rng_state(), state), "the global generator is left alone"
    batch = collate_preferences(pairs(5), pad_id=0)
    assert scorer(batch).shape == (10, 4)
    loss, count = pair_loss(scorer, batch)
    assert count == 5
    assert loss.item() / count == pytest.approx(math.log(2), abs=1e-6)


def test_reads_the_score_after_the_last_labelled_token():
    scorer = scorer_of()
    N = IGNORE_INDEX
    ids = torch.tensor([[1, 2, 3, 0, 0], [3, 1, 2, 2, 1], [0, 2, 1, 3, 0]])
    labels = torch.tensor([[N, 2, 3, N, N], [N, N, N, N, 1], [N, 2, N, 3, N]])
    batch = TokenBatch(ids=ids, labels=labels)
    scores = scorer(batch)
    assert torch.equal(response_rewards(scorer, batch), scores[[0, 1, 2], [2, 4, 3]])
    alone = TokenBatch(ids=ids[:1, :3], labels=labels[:1, :3])
    torch.testing.assert_close(response_rewards(scorer, alone), response_rewards(scorer, batch)[:1])
    with pytest.raises(ValueError, match="no response to score"):
        response_rewards(scorer, TokenBatch(ids=ids, labels=torch.full_like(ids, N)))


def test_learns_to_rank_and_leaves_the_policy_alone():
    model = policy_of(num_layers=2)
    before = frozen(model)
    scorer = TokenScorer(model)
    source = preference_batches(
        pairs(4000), batch_size=100, pad_id=0, generator=torch.Generator().manual_seed(1)
    )
    config = TrainConfig(steps=240, lr=6e-3, warmup_steps=4)
    records = list(train_reward_model(scorer, source, config))
    assert records[0].loss_nats == pytest.approx(math.log(2), abs=1e-6)
    assert records[0].tokens == 100
    assert_untouched(model, before)
    every = TASK.every_sequence()
    with torch.no_grad():
        learnt = response_rewards(scorer, every).view(4, -1)
    true = TASK.listed_rewards()
    better = (
        true[:, :, None] > true[:, None, :]
    )  # of the same prompt: only there are they comparable
    ranked = learnt[:, :, None] > learnt[:, None, :]
    assert ranked[better].float().mean() > 0.95


def test_accumulated_pairs_equal_one_batch():
    some = pairs(6)
    whole = collate_preferences(some, pad_id=0)
    parts = [collate_preferences(some[i : i + 2], pad_id=0) for i in (0, 2, 4)]
    [one] = train_reward_model(scorer_of(), [whole], TrainConfig(steps=1, lr=1e-3))
    config = TrainConfig(steps=1, lr=1e-3, accumulation=3)
    [many] = train_reward_model(scorer_of(), parts, config)
    assert many.tokens == one.tokens == 6
    assert many.loss_nats == pytest.approx(one.loss_nats, rel=1e-5)
    assert many.grad_norm == pytest.approx(one.grad_norm, rel=1e-4)


def test_loss_pairs_row_i_with_row_i_of_the_other_half():
    scorer, some = scorer_of(), pairs(3)
    loss, _ = pair_loss(scorer, collate_preferences(some, pad_id=0))
    rewards = response_rewards(scorer, collate_preferences(some, pad_id=0))
    expected = sum(bradley_terry_loss(rewards[i : i + 1], rewards[i + 3 : i + 4]) for i in range(3))
    torch.testing.assert_close(loss, expected.squeeze())


def test_an_odd_number_of_rows_is_refused():
    batch = collate_preferences(pairs(3), pad_id=0)
    odd = TokenBatch(ids=batch.ids[:5], labels=batch.labels[:5])
    with pytest.raises(ValueError, match="5 rows are not pairs"):
        pair_loss(scorer_of(), odd)
