"""The view without layers computes what the remaining blocks do, and leaves the model alone."""

import pytest
import torch

from labkit.inference.sampling import SamplingConfig
from labkit.inference.speculation.skip_layers import (
    SkipLayerDrafter,
    search_skipped_layers,
    skip_layers,
)
from labkit.model.cache import KVCache
from labkit.model.layers import rope_table
from labkit.tuning import lora, prompt_tuning
from labkit.tuning.lora_layer import LoraConfig


def by_hand(model, ids, skipped):
    """The kept blocks one after the other, without any view."""
    positions = torch.arange(ids.shape[1]).expand(ids.shape)
    x = model.model.embed_tokens(ids)
    rope = rope_table(positions, model.config.head_width, model.config.rope_theta)
    for number, block in enumerate(model.model.layers):
        if number not in skipped:
            x = block(x, rope)
    return model.lm_head(model.model.norm(x))


@pytest.mark.parametrize("skipped", [[], [0], [1], [2], [0, 2]])
@torch.no_grad()
def test_the_view_is_the_model_without_these_layers(byte_loaded, gen, skipped):
    model = byte_loaded.model
    ids = torch.randint(258, (2, 9), generator=gen)
    before = model(ids)
    view = skip_layers(model, skipped)
    torch.testing.assert_close(view(ids), by_hand(model, ids, skipped), rtol=1e-5, atol=1e-5)
    assert torch.equal(model(ids), before)
    assert [block.self_attn.layer for block in model.model.layers] == [0, 1, 2]
    assert len(model.model.layers) == model.config.num_layers == 3


@torch.no_grad()
def test_the_view_decodes_with_a_cache_of_its_own_layers_only(byte_loaded, gen):
    view = skip_layers(byte_loaded.model, [0])
    ids = torch.randint(258, (1, 9), generator=gen)
    cache = KVCache(view.config, batch_size=1, max_length=9)
    assert cache.keys.shape[0] == 2
    parts = [view(ids[:, :4], cache=cache), view(ids[:, 4:5], cache=cache)]
    parts.append(view(ids[:, 5:], cache=cache))
    torch.testing.assert_close(torch.cat(parts, 1), view(ids), rtol=1e-5, atol=1e-5)


def test_the_view_holds_no_tensor_of_its_own(byte_loaded):
    model = byte_loaded.model
    own = {parameter.data_ptr() for parameter in model.parameters()}
    view = skip_layers(model, [1])
    assert {parameter.data_ptr() for parameter in view.parameters()} < own
    drafter = SkipLayerDrafter(model, [1])
    assert drafter.name == "draft of 2 of 3 layers"


@torch.no_grad()
def test_adapters_draft_too(tiny_model, gen):
    config = LoraConfig(rank=2, target_modules=("q_proj", "down_proj"))
    adapted = lora.apply(tiny_model, config)
    for name, parameter in adapted.named_parameters():
        if "lora" in name:
            parameter.normal_(generator=gen)
    ids = torch.randint(97, (1, 8), generator=gen)
    view = skip_layers(adapted.eval(), [1])
    assert any("lora" in name for name, _ in view.named_parameters())
    torch.testing.assert_close(view(ids), by_hand(adapted, ids, [1]), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("skipped", [[3], [-1], [0, 0], [0, 1, 2]])
def test_bad_layers_are_named(byte_loaded, skipped):
    with pytest.raises(ValueError, match="must be different layers"):
        skip_layers(byte_loaded.model, skipped)


def test_a_soft_prompt_is_refused(tiny_model):
    prompt_tuning.apply(tiny_model, prompt_tuning.PromptTuningConfig(num_virtual_tokens=2))
    with pytest.raises(ValueError, match="soft prompt"):
        skip_layers(tiny_model, [0])


@torch.no_grad()
def shared_mass(model, ids, skipped, temperature):
    p = (model(ids) / temperature).softmax(-1)
    q = (by_hand(model, ids, skipped) / temperature).softmax(-1)
    return float(torch.minimum(p, q).sum(-1).mean())


def test_the_search_drops_the_least_missed_layer_first(byte_loaded, gen):
    model = byte_loaded.model
    ids = torch.randint(258, (2, 20), generator=gen)
    config = SamplingConfig(temperature=0.7)
    first, second = search_skipped_layers(model, ids, config, most=2)
    alone = [shared_mass(model, ids, [layer], 0.7) for layer in range(3)]
    assert first.skipped == (alone.index(max(alone)),)
    assert first.acceptance == pytest.approx(max(alone), abs=1e-5)
    pairs = {
        layer: shared_mass(model, ids, [*first.skipped, layer], 0.7)
        for layer in {0, 1, 2} - set(first.skipped)
    }
    assert second.skipped == (*first.skipped, max(pairs, key=pairs.get))
    assert second.acceptance == pytest.approx(max(pairs.values()), abs=1e-5)


def test_greedy_acceptance_is_the_share_of_equal_choices(byte_loaded, gen):
    model = byte_loaded.model
    ids = torch.randint(258, (2, 20), generator=gen)
    [choice] = search_skipped_layers(model, ids, SamplingConfig(), most=1)
    with torch.no_grad():
        equal = model(ids).argmax(-1) == by_hand(model, ids, choice.skipped).argmax(-1)
    assert choice.acceptance == pytest.approx(float(equal.double().mean()), abs=1e-9)


@pytest.mark.parametrize("most", [0, 3])
def test_the_search_must_leave_a_layer(byte_loaded, most):
    ids = torch.zeros(1, 4, dtype=torch.long)
    with pytest.raises(ValueError, match=f"most={most} must lie between 1 and 2"):
        next(search_skipped_layers(byte_loaded.model, ids, SamplingConfig(), most=most))
