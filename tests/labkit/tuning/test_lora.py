"""LoRA against its definition, against what PEFT's layers compute, and on a transformers Llama."""

import dataclasses
import itertools

import peft
import pytest
import torch
from torch import nn

from labkit.model.minillm import MiniLLM
from labkit.tuning import lora

from .llama import tiny_llama

RANK = 3


def linear(dtype: torch.dtype = torch.float32) -> nn.Linear:
    with torch.random.fork_rng():
        torch.manual_seed(6)
        return nn.Linear(13, 7, dtype=dtype)


def ids(gen: torch.Generator) -> torch.Tensor:
    return torch.randint(97, (2, 11), generator=gen)


def trained(model: nn.Module, gen: torch.Generator) -> nn.Module:
    """As if trained: every B, which starts at zero, gets values of the size of a base weight."""
    for layer in lora.layers(model).values():
        nn.init.normal_(layer.lora_B.weight, std=0.05, generator=gen)
    return model


@pytest.fixture
def config() -> lora.LoraConfig:
    return lora.LoraConfig(rank=RANK, alpha=5.0, target_modules=("q_proj", "v_proj", "down_proj"))


def test_layer_equals_its_definition_in_float64(gen: torch.Generator) -> None:
    base = linear(torch.float64)
    layer = lora.LoraLinear(base, lora.LoraConfig(rank=RANK, alpha=5.0), generator=gen)
    nn.init.normal_(layer.lora_B.weight, generator=gen)
    x = torch.randn(2, 5, 13, generator=gen, dtype=torch.float64)
    weight = base.weight + 5.0 / RANK * layer.lora_B.weight @ layer.lora_A.weight
    torch.testing.assert_close(layer(x), x @ weight.T + base.bias, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("use_rslora", [False, True])
def test_layer_and_gradients_equal_pefts(gen: torch.Generator, use_rslora: bool) -> None:
    config = lora.LoraConfig(rank=RANK, alpha=5.0, use_rslora=use_rslora)
    holder = nn.Sequential(linear())
    layer = lora.LoraLinear(holder[0], config, generator=gen)
    nn.init.normal_(layer.lora_B.weight, generator=gen)
    settings = peft.LoraConfig(r=RANK, lora_alpha=5, target_modules=["0"], use_rslora=use_rslora)
    oracle = peft.get_peft_model(holder, settings).base_model.model[0]
    for theirs, ours in ((oracle.lora_A, layer.lora_A), (oracle.lora_B, layer.lora_B)):
        theirs["default"].weight.data.copy_(ours.weight)
    x = torch.randn(2, 5, 13, generator=gen)
    torch.testing.assert_close(layer(x), oracle(x), rtol=1e-5, atol=1e-6)
    layer(x).square().sum().backward()
    oracle(x).square().sum().backward()
    for theirs, ours in ((oracle.lora_A, layer.lora_A), (oracle.lora_B, layer.lora_B)):
        torch.testing.assert_close(
            ours.weight.grad, theirs["default"].weight.grad, rtol=1e-4, atol=1e-4
        )


def test_zero_init_is_the_identity(config: lora.LoraConfig, gen: torch.Generator) -> None:
    model, x = tiny_llama(), ids(gen)
    before = model(x).logits
    lora.apply(model, config, generator=gen)
    assert torch.equal(model(x).logits, before)
    assert all(layer.lora_A.weight.abs().min() > 0 for layer in lora.layers(model).values())


def test_works_on_minillm(tiny_model: MiniLLM, gen: torch.Generator) -> None:
    x = ids(gen)
    before = tiny_model(x)
    lora.apply(tiny_model, lora.LoraConfig(rank=RANK, target_modules="all-linear"))
    assert len(lora.layers(tiny_model)) == 3 * 7
    assert torch.equal(tiny_model(x), before)
    adapted = trained(tiny_model, gen)(x)
    torch.testing.assert_close(lora.merge(tiny_model)(x), adapted, rtol=1e-5, atol=1e-5)
    assert (adapted - before).abs().max() > 1e-2


def test_only_adapters_move(config: lora.LoraConfig, gen: torch.Generator) -> None:
    model, x = tiny_llama(), ids(gen)
    lora.apply(model, config, generator=gen).train()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(2):  # in the first step A's gradient is zero, since B is
        optimizer.zero_grad()
        model(x, labels=x).loss.backward()
        optimizer.step()
    for name, parameter in model.named_parameters():
        is_adapter = "lora_" in name
        assert torch.equal(parameter, before[name]) != is_adapter, name
        assert (parameter.grad is not None) == is_adapter, name


def test_count_is_rank_times_in_plus_out(config: lora.LoraConfig) -> None:
    model = tiny_llama()
    total = sum(p.numel() for p in model.parameters())
    counts = lora.trainable_parameters(lora.apply(model, config))
    per_layer = (24 + 24) + (24 + 8) + (40 + 24)
    assert counts.trainable == 2 * RANK * per_layer
    assert counts.total == total + counts.trainable


def test_merge_equals_the_adapter_and_unmerge_restores_every_bit(
    config: lora.LoraConfig, gen: torch.Generator
) -> None:
    model, x = tiny_llama(), ids(gen)
    weights = {name: p.detach().clone() for name, p in model.named_parameters()}
    plain = model(x).logits
    adapted = trained(lora.apply(model, config), gen)(x).logits
    assert (adapted - plain).abs().max() > 1e-2
    torch.testing.assert_close(lora.merge(model)(x).logits, adapted, rtol=1e-5, atol=1e-5)
    lora.unmerge(model)
    assert torch.equal(model(x).logits, adapted)
    lora.remove(model)
    assert all(torch.equal(p, weights[name]) for name, p in model.named_parameters())
    assert torch.equal(model(x).logits, plain)


def test_merge_and_unload_leaves_plain_linears(
    config: lora.LoraConfig, gen: torch.Generator
) -> None:
    model, x = tiny_llama(bias=True), ids(gen)
    names = list(model.state_dict())
    adapted = trained(lora.apply(model, config), gen)(x).logits
    lora.merge_and_unload(model)
    assert list(model.state_dict()) == names
    torch.testing.assert_close(model(x).logits, adapted, rtol=1e-5, atol=1e-5)


def test_merging_a_tied_head_leaves_the_embedding_alone(gen: torch.Generator) -> None:
    model = tiny_llama()
    model.lm_head.weight = model.model.embed_tokens.weight
    embedding = model.model.embed_tokens.weight.detach().clone()
    trained(lora.apply(model, lora.LoraConfig(rank=RANK, target_modules=("lm_head",))), gen)
    lora.merge(model)
    assert torch.equal(model.model.embed_tokens.weight, embedding)
    lora.unmerge(model)
    assert model.lm_head.base_layer.weight is model.model.embed_tokens.weight


def test_bfloat16_merge_rounds_once(config: lora.LoraConfig, gen: torch.Generator) -> None:
    layer = lora.LoraLinear(linear(torch.bfloat16), config)
    nn.init.normal_(layer.lora_B.weight, generator=gen)
    A, B = layer.lora_A.weight.float(), layer.lora_B.weight.float()
    exact = layer.base_layer.weight.float() + config.scaling * (B @ A)
    assert layer.lora_A.weight.dtype == torch.bfloat16
    torch.testing.assert_close(layer.merged_weight().float(), exact, rtol=2**-8, atol=0)


def test_float32_adapters_on_a_bfloat16_base_train_under_autocast(config: lora.LoraConfig) -> None:
    model = lora.apply(nn.ModuleDict({"q_proj": linear()}).bfloat16(), config, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        out = model["q_proj"](torch.ones(2, 3, 13, dtype=torch.bfloat16))
    out.sum().backward()
    assert out.dtype == torch.bfloat16
    assert model["q_proj"].lora_B.weight.grad.dtype == torch.float32


@pytest.mark.parametrize(
    ("bias", "trains"),
    [
        ("none", lambda name: False),
        ("lora_only", lambda name: name.endswith("base_layer.bias")),
        ("all", lambda name: name.endswith("bias")),
    ],
)
def test_bias_trains_what_peft_trains(bias, trains) -> None:
    model = lora.apply(tiny_llama(bias=True), lora.LoraConfig(rank=RANK, bias=bias))
    got = {name for name, p in model.named_parameters() if p.requires_grad and "lora_" not in name}
    assert got == {name for name, _ in model.named_parameters() if trains(name)}
    settings = peft.LoraConfig(r=RANK, target_modules=["q_proj", "v_proj"], bias=bias)
    oracle = peft.get_peft_model(tiny_llama(bias=True), settings)
    theirs = {name for name, p in oracle.named_parameters() if p.requires_grad}
    assert {f"base_model.model.{name}" for name in got} == {n for n in theirs if "lora_" not in n}


@pytest.mark.parametrize("targets", ["all-linear", r".*\.1\..*_proj", ("mlp.up_proj", "o_proj")])
def test_targets_are_those_of_peft(targets) -> None:
    config = lora.LoraConfig(rank=RANK, target_modules=targets)
    got = set(lora.layers(lora.apply(tiny_llama(), config)))
    theirs = targets if isinstance(targets, str) else list(targets)
    oracle = peft.get_peft_model(tiny_llama(), peft.LoraConfig(r=RANK, target_modules=theirs))
    names = {n.removesuffix(".lora_A") for n, _ in oracle.named_modules() if n.endswith(".lora_A")}
    assert {f"base_model.model.{name}" for name in got} == names
    assert "lm_head" not in got


def test_dropout_acts_in_training_only_and_only_on_the_adapter(gen: torch.Generator) -> None:
    layer = lora.LoraLinear(linear(), lora.LoraConfig(rank=RANK, dropout=0.5))
    nn.init.normal_(layer.lora_B.weight, generator=gen)
    x = torch.ones(4, 13)
    assert torch.equal(layer.eval()(x), layer(x))
    spread = layer.train()(x).std(0)
    assert spread.min() > 0
    layer.enabled = False
    assert torch.equal(layer(x), layer.base_layer(x))
    assert lora.LoraLinear(linear(), lora.LoraConfig(rank=RANK)).dropout is None


def test_disabled_gives_the_base_and_puts_back_what_was(
    config: lora.LoraConfig, gen: torch.Generator
) -> None:
    model, x = tiny_llama(), ids(gen)
    plain = model(x).logits
    adapted = trained(lora.apply(model, config), gen)(x).logits
    with lora.disabled(model):
        with pytest.raises(KeyError), lora.disabled(model):
            raise KeyError
        assert torch.equal(model(x).logits, plain)
    assert torch.equal(model(x).logits, adapted)
    with pytest.raises(ValueError, match="unmerge first"), lora.disabled(lora.merge(model)):
        pass


def test_same_generator_same_adapter_and_the_global_one_is_untouched(
    config: lora.LoraConfig,
) -> None:
    state = torch.random.get_rng_state()
    models = [
        lora.apply(tiny_llama(), config, generator=generator)
        for generator in (None, None, torch.Generator().manual_seed(9))
    ]
    assert torch.equal(torch.random.get_rng_state(), state)
    first, same, other = ([m.lora_A.weight for m in lora.layers(x).values()] for x in models)
    assert all(map(torch.equal, first, same))
    assert not any(map(torch.equal, first, other))
    assert not any(
        torch.equal(a, b) for a, b in itertools.combinations(first, 2) if a.shape == b.shape
    )


def test_merging_out_of_turn_is_refused(config: lora.LoraConfig) -> None:
    model = tiny_llama()
    for step in (lora.merge, lora.unmerge, lora.remove, lora.merge_and_unload):
        with pytest.raises(ValueError, match="no LoRA adapters; call apply first"):
            step(model)
    lora.apply(model, config)
    with pytest.raises(ValueError, match="not merged; call merge first"):
        lora.unmerge(model)
    lora.merge(model)
    with pytest.raises(ValueError, match="merged already; call unmerge first"):
        lora.merge(model)
    with pytest.raises(ValueError, match="merged already"):
        lora.layers(model)["model.layers.0.mlp.down_proj"].merge()
    with pytest.raises(ValueError, match="adapters already; call remove"):
        lora.apply(model, config)


def test_targets_without_a_match_name_the_layers_there_are() -> None:
    model = tiny_llama()
    with pytest.raises(ValueError, match=r"'wq',.*down_proj, gate_proj, k_proj, lm_head"):
        lora.apply(model, lora.LoraConfig(rank=RANK, target_modules=("wq",)))
    assert all(p.requires_grad for p in model.parameters())


def test_too_large_a_rank_is_refused_before_anything_changes() -> None:
    model = tiny_llama()
    with pytest.raises(
        ValueError, match=r"rank=9 exceeds min\(in, out\)=8 of .*0.*v_proj \(24 -> 8\)"
    ):
        lora.apply(model, lora.LoraConfig(rank=9))
    assert not any(isinstance(m, lora.LoraLinear) for m in model.modules())
    with pytest.raises(ValueError, match="is a Embedding"):
        lora.LoraLinear(model.model.embed_tokens, lora.LoraConfig(rank=9))


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("rank", 0, "rank=0 must be at least 1"),
        ("rank", -2, "rank=-2"),
        ("alpha", 0.0, "alpha=0.0 must be a positive number"),
        ("alpha", float("nan"), "alpha=nan"),
        ("dropout", 1.0, "dropout=1.0 must lie in"),
        ("bias", "some", "bias='some' must be 'none', 'lora_only' or 'all'"),
        ("target_modules", (), "target_modules is empty"),
    ],
)
def test_wrong_options_are_refused(field: str, value: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(lora.LoraConfig(), **{field: value})


def test_float32_adapters_train_on_a_bfloat16_base(gen: torch.Generator) -> None:
    base = linear(torch.bfloat16)
    layer = lora.LoraLinear(base, lora.LoraConfig(rank=RANK), generator=gen, dtype=torch.float32)
    x = torch.randn(5, 13, generator=gen).bfloat16()
    assert torch.equal(layer(x), base(x))
    layer(x).float().square().sum().backward()
    assert layer.lora_B.weight.grad is not None
    assert layer.lora_B.weight.grad.dtype == torch.float32
    assert layer.lora_B.weight.grad.abs().max() > 0
