"""Every method by name, as usually set up, on a small model."""

import pytest
import torch

from labkit.inference import decoding, generate, sampling
from labkit.model import minillm
from labkit.model.config import ModelConfig
from labkit.tuning import lora, soft_prompt
from labkit.tuning.methods import METHODS, adalora_config, lora_config

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


def made(name: str) -> minillm.MiniLLM:
    torch.manual_seed(0)
    model = minillm.MiniLLM(CONFIG)
    method = METHODS[name]
    method.put(model, method.settings(12), torch.Generator().manual_seed(1))
    return model


def ids() -> torch.Tensor:
    return torch.randint(97, (2, 9), generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("name", METHODS)
class TestEvery:
    def test_keeps_the_outputs_or_says_that_it_does_not(self, name: str) -> None:
        torch.manual_seed(0)
        before = minillm.MiniLLM(CONFIG).eval()(ids())
        same = torch.equal(made(name).eval()(ids()), before)
        assert same == METHODS[name].keeps_start

    def test_trains_something_and_only_full_tuning_trains_all(self, name: str) -> None:
        model = made(name)
        trained = [p.requires_grad for p in model.parameters()]
        assert any(trained)
        assert all(trained) == (name == "full")

    def test_packs_where_it_says_so(self, name: str) -> None:
        model, documents = made(name), torch.tensor([[0] * 4 + [1] * 5] * 2)
        if METHODS[name].packs:
            assert model(ids(), document_ids=documents).isfinite().all()
        else:
            with pytest.raises(ValueError, match="do not pack"):
                model(ids(), document_ids=documents)


@pytest.mark.parametrize("name", ["lora", "prompt", "prefix", "unipelt"])
@pytest.mark.parametrize("most", [5, 100])
def test_generates_what_the_model_finds_likeliest(name: str, most: int) -> None:
    """Rows of unlike length, up to the end of the context, which virtual tokens take part of."""
    model = made(name).eval()
    rows = [[5, 7, 11], [13, 17, 19, 23, 29, 31]]
    config = sampling.SamplingConfig(temperature=0.0, max_new_tokens=most)
    for row in rows:
        ids = torch.tensor([row])
        room = CONFIG.max_length - soft_prompt.virtual_tokens(model) - len(row) + 1
        [got] = generate.generate_ids(model, ids, config)
        assert len(got) == min(most, room)
        for token in got:
            assert token == model(ids)[0, -1].argmax()
            ids = torch.cat([ids, token[None, None]], dim=1)
    together = decoding.BatchDecoder(model, rows, max_steps=1)
    alone = [decoding.BatchDecoder(model, [row], max_steps=1) for row in rows]
    torch.testing.assert_close(together.prefill(), torch.cat([d.prefill() for d in alone]))
    first = torch.tensor([1, 2])
    expected = torch.cat([d.step(first[i : i + 1]) for i, d in enumerate(alone)])
    torch.testing.assert_close(together.step(first), expected)


def test_rslora_has_a_larger_rank_and_the_same_scaling() -> None:
    assert lora_config(use_rslora=True).rank == 4 * lora_config().rank
    assert lora_config(use_rslora=True).scaling == pytest.approx(lora_config().scaling)
    assert lora_config(use_dora=True).use_dora


def test_adalora_has_time_to_shrink_in_short_runs() -> None:
    for steps in (6, 24, 1_000):
        config = adalora_config(steps)
        assert config.initial_steps + config.final_steps < steps


def test_only_adalora_adds_to_a_step() -> None:
    assert [name for name, method in METHODS.items() if method.penalty] == ["adalora"]
    assert [name for name, method in METHODS.items() if method.allocator] == ["adalora"]


def test_lora_is_lora() -> None:
    assert set(lora.layers(made("lora"))) == set(lora.layers(made("dora")))
