"""Training under a method by name: all learn, AdaLoRA's additions are there, runs resume."""

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from labkit.data.batch import TokenBatch
from labkit.model import minillm
from labkit.model.config import ModelConfig
from labkit.training.config import TrainConfig
from labkit.training.forward import causal_lm_loss
from labkit.training.tune import method, penalised, tune
from labkit.tuning import adalora, lora
from labkit.tuning.methods import METHODS

CONFIG = ModelConfig(
    vocab_size=97,
    width=64,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    head_width=16,
    ffn_width=128,
    max_length=64,
)
STEPS = 12
RATES = {"prompt": 0.3, "p-tuning": 0.03, "p-tuning-v2": 0.3, "prefix": 0.03, "ia3": 0.3}


def model() -> minillm.MiniLLM:
    torch.manual_seed(0)
    return minillm.MiniLLM(CONFIG)


def rows() -> Iterator[TokenBatch]:
    source = torch.Generator().manual_seed(2)
    ids = torch.randint(97, (4, 12), generator=source)
    return itertools.repeat(TokenBatch(ids=ids, labels=ids))


def config(name: str, **more: int) -> TrainConfig:
    return TrainConfig(steps=STEPS, lr=RATES.get(name, 0.01), **more)


@pytest.mark.parametrize("name", METHODS)
def test_every_method_learns(name: str) -> None:
    losses = [record.loss_nats for record in tune(model(), name, rows(), config(name))]
    assert min(losses[-3:]) < losses[0] - 0.01


def test_ranks_shrink_to_the_target_on_average() -> None:
    tuned = model()
    for _ in tune(tuned, "adalora", rows(), config("adalora")):
        pass
    kept = [int((layer.lora_E != 0).sum()) for layer in adalora.layers(tuned).values()]
    assert sum(kept) <= 8 * len(kept)
    assert len(set(kept)) > 1


@pytest.mark.parametrize("stopped", [3, 7])
def test_a_resumed_run_is_the_whole_one_to_the_bit(tmp_path: Path, stopped: int) -> None:
    whole, part, rest = model(), model(), model()
    for _ in tune(whole, "adalora", rows(), config("adalora")):
        pass
    steps = tune(
        part, "adalora", rows(), config("adalora", checkpoint_every=1), checkpoint_dir=tmp_path
    )
    for _ in itertools.islice(steps, stopped):
        pass
    resumed = tune(rest, "adalora", rows(), config("adalora"), checkpoint_dir=tmp_path, resume=True)
    assert [record.step for record in resumed] == list(range(stopped + 1, STEPS + 1))
    for name, tensor in whole.state_dict().items():
        assert torch.equal(rest.state_dict()[name], tensor), name


def test_a_penalty_counts_for_every_token() -> None:
    settings = adalora.AdaLoraConfig(total_steps=STEPS, orthogonality_weight=0.7)
    tuned = method("adalora").put(model(), settings, torch.Generator())
    plain, tokens = causal_lm_loss(tuned, next(rows()))
    summed, count = penalised(causal_lm_loss, method("adalora"), settings)(tuned, next(rows()))
    expected = plain + tokens * 0.7 * adalora.orthogonality(tuned)
    assert count == tokens
    torch.testing.assert_close(summed, expected)
    assert summed > plain


def test_without_a_penalty_the_loss_is_the_loss() -> None:
    assert penalised(causal_lm_loss, method("lora"), None) is causal_lm_loss


def test_an_unknown_name_lists_those_there_are() -> None:
    with pytest.raises(ValueError, match=r"method='lorra' is unknown: use one of full, .*unipelt"):
        tune(model(), "lorra", rows(), config("lora"))


def test_settings_of_ones_own_are_used() -> None:
    tuned = model()
    own = lora.LoraConfig(rank=3, target_modules=("q_proj",))
    next(tune(tuned, "lora", rows(), config("lora"), settings=own))
    assert {layer.lora_A.weight.shape[0] for layer in lora.layers(tuned).values()} == {3}
