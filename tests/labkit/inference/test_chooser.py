"""Choosing: transformers' transforms in its order, exact draws, alike alone and in any batch."""

import copy

import numpy as np
import pytest
import scipy.stats
import torch
from torch import Tensor
from transformers.generation import logits_process as hf

from labkit.inference.chooser import Choice, TokenChooser, adjusted, choose
from labkit.inference.constraint import Constraint
from labkit.inference.sampling import SamplingConfig, next_token_distributions

V, EOS, STOP = 97, 90, 91
PROMPT, OUTPUT = [3, 5, 8, 13, 13], [5, 21, 34, 34, 34]


class Only:
    """Allows the same tokens at every step, and is finished after so many."""

    def __init__(self, tokens: list[int], steps: int = 1_000, vocab_size: int = V) -> None:
        self.tokens, self.steps, self.vocab_size = tokens, steps, vocab_size
        self.advanced: list[int] = []

    @property
    def finished(self) -> bool:
        return len(self.advanced) >= self.steps

    def allowed(self) -> Tensor:
        mask = torch.zeros(self.vocab_size, dtype=torch.bool)
        mask[self.tokens] = True
        return mask

    def advance(self, token: int) -> None:
        if token not in self.tokens:
            raise ValueError(f"{token} is not allowed")
        self.advanced.append(token)

    def copy(self) -> "Only":
        return copy.deepcopy(self)


def chooser_of(
    config: SamplingConfig, constraint: Constraint | None = None, seed: int | None = None
) -> TokenChooser:
    """After PROMPT and OUTPUT, which the constraint has not seen."""
    chooser = TokenChooser(config, PROMPT, seed=seed, eos_id=EOS)
    for token in OUTPUT:
        chooser.record(token)
    chooser.constraint = constraint
    return chooser


def oracle(logits: Tensor, config: SamplingConfig, allowed: list[int] | None) -> Tensor:
    """transformers' processors; presence and frequency by the OpenAI API's formula."""
    ids = torch.tensor([PROMPT + OUTPUT])
    bias = {(token,): value for token, value in config.logit_bias.items()}
    if bias:
        logits = hf.SequenceBiasLogitsProcessor(bias)(ids, logits)
    logits = hf.RepetitionPenaltyLogitsProcessor(config.repetition_penalty)(ids, logits)
    count = torch.bincount(torch.tensor(OUTPUT), minlength=V).float()
    logits = logits - count * config.frequency_penalty - (count > 0) * config.presence_penalty
    ends = [EOS, *config.stop_token_ids]
    logits = hf.MinNewTokensLengthLogitsProcessor(
        len(PROMPT), config.min_new_tokens, ends, device="cpu"
    )(ids, logits)
    if allowed is not None:
        logits = hf.PrefixConstrainedLogitsProcessor(lambda *_: allowed, 1)(ids, logits)
    logits = hf.TemperatureLogitsWarper(config.temperature)(ids, logits)
    if config.top_k is not None:
        logits = hf.TopKLogitsWarper(config.top_k)(ids, logits)
    if config.top_p is not None:
        logits = hf.TopPLogitsWarper(config.top_p)(ids, logits)
    if config.min_p is not None:
        logits = hf.MinPLogitsWarper(config.min_p)(ids, logits)
    return logits.softmax(-1)


def random_config(rng: np.random.Generator) -> SamplingConfig:
    def maybe(value):
        return value if rng.random() < 0.6 else None

    biased = rng.choice(V, size=rng.integers(0, 9), replace=False)
    return SamplingConfig(
        temperature=rng.uniform(0.3, 3),
        top_k=maybe(int(rng.integers(1, 60))),
        top_p=maybe(rng.uniform(0.2, 1)),
        min_p=maybe(rng.uniform(0, 0.3)),
        repetition_penalty=maybe(rng.uniform(0.5, 3)) or 1.0,
        presence_penalty=maybe(rng.uniform(-2, 2)) or 0.0,
        frequency_penalty=maybe(rng.uniform(-1, 1)) or 0.0,
        logit_bias={int(token): rng.uniform(-6, 6) for token in biased},
        stop_token_ids=(STOP,),
        min_new_tokens=int(rng.integers(0, 10)),
        logprobs=maybe(int(rng.integers(0, 4))),
        seed=int(rng.integers(1_000)),
    )


def random_batch(rng: np.random.Generator, B: int) -> tuple[Tensor, list[TokenChooser], list]:
    logits = torch.tensor(rng.normal(size=(B, V)) * 3, dtype=torch.float32)
    logits[:, [EOS, STOP]] += 4  # so that forbidding the end matters
    masks = [
        rng.choice(V, size=50, replace=False).tolist() if rng.random() < 0.4 else None
        for _ in range(B)
    ]
    choosers = [
        chooser_of(random_config(rng), None if mask is None else Only(mask)) for mask in masks
    ]
    return logits, choosers, masks


def test_every_transform_and_their_order_are_transformers(rng):
    for _ in range(12):
        logits, choosers, masks = random_batch(rng, B=8)
        before = logits.clone()
        configs = [chooser.config for chooser in choosers]
        ours = next_token_distributions(adjusted(logits, choosers), configs)
        assert torch.equal(logits, before)
        for row, (config, mask) in enumerate(zip(configs, masks, strict=True)):
            expected = oracle(logits[row : row + 1].clone(), config, mask)
            # float32 sums in another order; the sets of tokens kept must be the same
            assert torch.equal(ours[row] > 0, expected[0] > 0)
            torch.testing.assert_close(ours[row], expected[0], rtol=1e-5, atol=1e-8)


def test_bias_comes_before_the_repetition_penalty():
    logits = torch.zeros(1, V)
    chooser = chooser_of(SamplingConfig(logit_bias={5: 3.0}, repetition_penalty=2.0))
    assert adjusted(logits, [chooser])[0, 5].item() == 1.5


def test_masks_come_before_top_k():
    logits = torch.arange(V, dtype=torch.float32)[None]
    config = SamplingConfig(temperature=1.0, top_k=2)
    chooser = chooser_of(config, Only([10, 11, 12]))
    probs = next_token_distributions(adjusted(logits, [chooser]), [config])
    assert probs.nonzero()[:, 1].tolist() == [11, 12]


def test_a_row_is_the_same_alone_and_in_any_batch(rng):
    logits, choosers, _ = random_batch(rng, B=19)  # more than are drawn for at once
    choosers[3] = chooser_of(SamplingConfig(logprobs=2))  # greedy among others
    choosers[4] = chooser_of(SamplingConfig())
    alone = [copy.deepcopy(chooser) for chooser in choosers]
    for step in range(6):
        shifted = logits.roll(step, dims=1)
        together = choose(shifted, choosers)
        for row, chooser in enumerate(alone):
            assert choose(shifted[row : row + 1], [chooser]) == [together[row]]
        order = list(reversed(range(19)))
        logits = logits[order]
        choosers, alone = [choosers[i] for i in order], [alone[i] for i in order]


def test_draws_follow_the_oracles_distribution(rng):
    config = SamplingConfig(
        temperature=1.4, top_k=30, top_p=0.95, min_p=0.02, repetition_penalty=1.5,
        frequency_penalty=0.4, presence_penalty=-1.0, logit_bias={5: 4.0, 60: 3.0},
    )  # fmt: skip
    logits = torch.tensor(rng.normal(size=(1, V)) * 2, dtype=torch.float32)
    mask = list(range(0, V, 5))
    expected = oracle(logits.clone(), config, mask)[0].double().numpy()
    draws = [
        choose(
            logits.expand(500, V),
            [chooser_of(config, Only(mask), seed=500 * batch + row) for row in range(500)],
        )
        for batch in range(6)
    ]
    counts = np.bincount([choice.token for batch in draws for choice in batch], minlength=V)
    kept = expected > 0
    assert counts[~kept].sum() == 0
    assert kept.sum() > 5
    test = scipy.stats.chisquare(counts[kept], expected[kept] / expected[kept].sum() * 3_000)
    assert test.pvalue > 1e-3


def test_a_greedy_batch_costs_one_argmax(gen, monkeypatch):
    logits = torch.randn(4, V, generator=gen).bfloat16()
    logits[2, [7, 50]] = 9.0
    for name in ("sample", "next_token_distributions", "token_logprobs", "penalised"):
        monkeypatch.setattr(f"labkit.inference.chooser.{name}", None)
    choosers = [TokenChooser(SamplingConfig(), PROMPT) for _ in range(4)]
    assert adjusted(logits, choosers) is logits
    assert choose(logits, choosers) == [Choice(token) for token in logits.argmax(-1).tolist()]
    assert choosers[2].num_chosen == 1


def test_logprobs_are_the_models_own_and_greedy_finds_itself_on_top(gen):
    logits = torch.randn(3, V, generator=gen) * 3
    plain = SamplingConfig(logprobs=2)
    pushed = SamplingConfig(logprobs=3, logit_bias={40: 50.0})
    hot = SamplingConfig(logprobs=0, temperature=2.0, top_k=1)
    choices = choose(logits, [TokenChooser(c, PROMPT) for c in (plain, pushed, hot)])
    expected = logits.double().log_softmax(-1)
    for row, choice in enumerate(choices):
        assert choice.logprob == pytest.approx(expected[row, choice.token].item(), abs=1e-5)
    assert choices[0].top[0] == (choices[0].token, choices[0].logprob)
    assert choices[1].token == 40
    assert [len(choice.top) for choice in choices] == [2, 3, 0]
    assert 40 not in dict(choices[1].top)
    assert choose(logits[:1], [TokenChooser(SamplingConfig(), PROMPT)])[0].logprob is None


def test_penalties_follow_what_is_drawn():
    logits = torch.zeros(1, V)
    logits[0, [60, 61]] = torch.tensor([2.0, 1.5])
    chooser = TokenChooser(SamplingConfig(presence_penalty=1.0), [60, 60])
    drawn = [choose(logits, [chooser])[0].token for _ in range(3)]
    assert drawn == [60, 61, 60]  # the prompt's do not count; then both are equally punished
    chooser = TokenChooser(SamplingConfig(repetition_penalty=2.0), [60, 60])
    assert choose(logits, [chooser])[0].token == 61  # here they do, and once


def test_no_end_before_the_least_number_of_tokens():
    logits = torch.zeros(1, V)
    logits[0, [EOS, STOP, 7]] = torch.tensor([3.0, 2.0, 1.0])
    config = SamplingConfig(min_new_tokens=2, stop_token_ids=(STOP,))
    chooser = TokenChooser(config, PROMPT, eos_id=EOS)
    assert [choose(logits, [chooser])[0].token for _ in range(3)] == [7, 7, EOS]
    ignoring = SamplingConfig(min_new_tokens=2, ignore_eos=True)
    assert choose(logits, [TokenChooser(ignoring, PROMPT, eos_id=EOS)])[0].token == EOS
    assert choose(logits, [TokenChooser(config, PROMPT)])[0].token == EOS  # none is known
    # A constraint that allows only the end is obeyed.
    forced = TokenChooser(config, PROMPT, eos_id=EOS, constraint=Only([EOS]))
    assert choose(logits, [forced])[0].token == EOS
    free = TokenChooser(config, PROMPT, eos_id=EOS, constraint=Only([EOS, 50]))
    assert choose(logits, [free])[0].token == 50


@pytest.mark.parametrize("temperature", [0.0, 5.0])
def test_a_constraint_holds_and_advances(gen, temperature):
    only = Only([4, 44, 80], steps=25)
    assert isinstance(only, Constraint)
    config = SamplingConfig(temperature=temperature)
    chooser = TokenChooser(config, PROMPT, constraint=only)
    drawn = []
    for _ in range(25):
        assert not chooser.finished
        drawn += choose(torch.randn(1, V, generator=gen), [chooser])
    assert [choice.token for choice in drawn] == only.advanced
    assert set(only.advanced) == {4, 44, 80}
    assert chooser.finished


def test_seeds_decide():
    logits = torch.zeros(1, V)
    config = SamplingConfig(temperature=1.0, seed=4)

    def drawn(seed: int | None) -> list[int]:
        chooser = TokenChooser(config, PROMPT, seed=seed)
        return [choose(logits, [chooser])[0].token for _ in range(8)]

    assert drawn(None) == drawn(4) != drawn(5)


def test_what_does_not_fit_is_refused(gen):
    logits = torch.randn(2, V, generator=gen)
    with pytest.raises(ValueError, match="1 choosers for B=2"):
        choose(logits, [TokenChooser(SamplingConfig(), PROMPT)])
    wrong = TokenChooser(SamplingConfig(), PROMPT, constraint=Only([1], vocab_size=90))
    with pytest.raises(ValueError, match="knows 90 tokens, the model 97"):
        choose(logits[:1], [wrong])
    broken = logits.fill_(float("nan"))
    with pytest.raises(ValueError, match="sum to"):
        choose(broken[:1], [TokenChooser(SamplingConfig(temperature=1.0), PROMPT)])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_greedy_takes_the_first_of_the_largest(dtype):
    logits = torch.randn(40, 97, generator=torch.Generator().manual_seed(1)).to(dtype)
    logits[:, 30] = logits[:, 60] = logits.amax(1)
    tokens = [
        c.token for c in choose(logits, [TokenChooser(SamplingConfig(), PROMPT) for _ in range(40)])
    ]
    first = [row.index(max(row)) for row in logits.tolist()]
    assert tokens == first
