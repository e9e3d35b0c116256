"""IA3 against its definition and PEFT's layer."""

import dataclasses

import peft
import pytest
import torch
from torch import nn

from labkit.tuning import adapter_files, ia3

from .llama import tiny_llama


def linear() -> nn.Linear:
    with torch.random.fork_rng():
        torch.manual_seed(6)
        return nn.Linear(13, 7)


@pytest.mark.parametrize("feedforward", [False, True])
def test_layer_and_gradient_equal_pefts(feedforward: bool, gen: torch.Generator) -> None:
    holder = nn.Sequential(linear())
    layer = ia3.Ia3Linear(holder[0], feedforward=feedforward)
    nn.init.normal_(layer.ia3_l, generator=gen)
    settings = peft.IA3Config(
        target_modules=["0"], feedforward_modules=["0"] if feedforward else []
    )
    oracle = peft.get_peft_model(holder, settings).base_model.model[0]
    oracle.ia3_l["default"].data.copy_(layer.ia3_l)
    x = torch.randn(2, 5, 13, generator=gen)
    assert torch.equal(layer(x), oracle(x))
    layer(x).square().sum().backward()
    oracle(x).square().sum().backward()
    assert torch.equal(layer.ia3_l.grad, oracle.ia3_l["default"].grad)


def test_outputs_are_scaled_with_their_bias_and_inputs_before_the_product() -> None:
    base, x = linear().double(), torch.arange(13, dtype=torch.float64)[None, None]
    out = ia3.Ia3Linear(base)
    nn.init.constant_(out.ia3_l, -2.0)
    torch.testing.assert_close(out(x), -2 * (x @ base.weight.T + base.bias), rtol=1e-12, atol=0)
    feed = ia3.Ia3Linear(base, feedforward=True)
    with torch.no_grad():
        feed.ia3_l[0, 4] = 3.0
    expected = base(x) + 2 * 4 * base.weight[:, 4]
    torch.testing.assert_close(feed(x), expected, rtol=1e-12, atol=1e-12)


CONFIGS = [
    ia3.Ia3Config(),
    ia3.Ia3Config(target_modules=("q_proj", "o_proj"), feedforward_modules=()),
    ia3.Ia3Config(target_modules="all-linear", feedforward_modules=r".*mlp\..*"),
    ia3.Ia3Config(target_modules=r".*\.1\..*_proj", feedforward_modules=("down_proj",)),
]


def trained(model: nn.Module, gen: torch.Generator) -> nn.Module:
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "ia3_l" in name:
                parameter.normal_(1.0, 0.5, generator=gen)
    return model.eval()


def theirs_of(config: ia3.Ia3Config) -> peft.PeftModel:
    targets, feed = config.target_modules, config.feedforward_modules
    settings = peft.IA3Config(
        target_modules=targets if isinstance(targets, str) else list(targets),
        feedforward_modules=feed if isinstance(feed, str) else list(feed),
    )
    return peft.get_peft_model(tiny_llama(bias=True), settings)


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_files_are_exact_both_ways(config: ia3.Ia3Config, tmp_path, gen) -> None:
    x = torch.randint(97, (2, 11), generator=gen)
    ours = trained(ia3.apply(tiny_llama(bias=True), config), gen)
    adapter_files.save(ours, tmp_path / "ours", config, "tiny")
    read = peft.PeftModel.from_pretrained(tiny_llama(bias=True), str(tmp_path / "ours")).eval()
    assert torch.equal(read(x).logits, ours(x).logits)
    with torch.no_grad():
        plain = tiny_llama(bias=True)(x).logits
    assert (ours(x).logits - plain).abs().max() > 1e-3

    theirs = trained(theirs_of(config), gen)
    theirs.save_pretrained(tmp_path / "theirs")
    again = adapter_files.load(tiny_llama(bias=True), tmp_path / "theirs")
    assert torch.equal(again(x).logits, theirs(x).logits)
    assert isinstance(adapter_files.read(tmp_path / "theirs").config, ia3.Ia3Config)
    names = {f"base_model.model.{name}.ia3_l" for name in ia3.layers(ours)}
    stored = adapter_files.load_file(tmp_path / "theirs" / adapter_files.WEIGHTS_NAME)
    assert set(stored) == names


def test_wrong_options_are_refused() -> None:
    with pytest.raises(ValueError, match=r"feedforward_modules names up_proj, which target"):
        dataclasses.replace(ia3.Ia3Config(), feedforward_modules=("up_proj",))
    with pytest.raises(ValueError, match="target_modules is empty"):
        dataclasses.replace(ia3.Ia3Config(), target_modules=())
    with pytest.raises(ValueError, match="is a Embedding"):
        ia3.Ia3Linear(nn.Embedding(3, 2))
