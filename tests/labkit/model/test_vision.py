"""The vision encoder against transformers' SigLIP with the same weights, and against loops."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from labkit.model import vision

CONFIG = vision.VisionConfig(
    image_size=12, patch_size=4, channels=3, width=20, num_layers=3, num_heads=5, ffn_width=28
)


@pytest.fixture
def encoder(gen: torch.Generator) -> vision.VisionEncoder:
    encoder = vision.VisionEncoder(CONFIG)
    with torch.no_grad():
        for parameter in encoder.parameters():  # biases and norms too: none may be forgotten
            parameter.normal_(0.0, 0.3, generator=gen)
    return encoder


@pytest.fixture
def images(gen: torch.Generator) -> Tensor:
    return torch.randn(2, 3, 12, 12, generator=gen)


def as_siglip(encoder: vision.VisionEncoder) -> nn.Module:
    """SigLIP has no class token either; its patch embedding is a convolution."""
    from transformers import SiglipVisionConfig, SiglipVisionModel

    c = encoder.config
    siglip = SiglipVisionModel(
        SiglipVisionConfig(
            hidden_size=c.width,
            intermediate_size=c.ffn_width,
            num_hidden_layers=c.num_layers,
            num_attention_heads=c.num_heads,
            num_channels=c.channels,
            image_size=c.image_size,
            patch_size=c.patch_size,
            hidden_act="gelu",
            layer_norm_eps=c.norm_eps,
            vision_use_head=False,
        )
    ).eval()
    names = {
        "norm1": "layer_norm1",
        "norm2": "layer_norm2",
        "attention.o_proj": "self_attn.out_proj",
        "attention": "self_attn",
        "up_proj": "mlp.fc1",
        "down_proj": "mlp.fc2",
    }
    state: dict[str, Any] = {}
    for name, tensor in encoder.state_dict().items():
        name = name.replace("blocks.", "encoder.layers.")
        for ours, theirs in names.items():
            name = name.replace(f".{ours}.", f".{theirs}.")
        if name.startswith("norm."):
            name = f"post_layernorm.{name.removeprefix('norm.')}"
        if name == "patch_embedding.weight":
            p = c.patch_size
            tensor = tensor.view(c.width, c.channels, p, p)
        if name.startswith("patch_embedding."):
            name = f"embeddings.{name}"
        if name == "position_embedding":
            name = "embeddings.position_embedding.weight"
        state[name] = tensor
    prefix = "vision_model." if any("vision_model." in n for n in siglip.state_dict()) else ""
    siglip.load_state_dict({prefix + name: t for name, t in state.items()}, strict=True)
    return siglip


def test_patch_vectors_equal_siglips(encoder: vision.VisionEncoder, images: Tensor) -> None:
    siglip = as_siglip(encoder)
    ours, theirs = encoder(images), siglip(pixel_values=images).last_hidden_state
    assert ours.shape == (2, 9, 20)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    ours.square().sum().backward()
    theirs.square().sum().backward()
    expected = next(p.grad for n, p in siglip.named_parameters() if "patch_embedding.w" in n)
    got = encoder.patch_embedding.weight.grad
    torch.testing.assert_close(got, expected.view(got.shape), rtol=1e-4, atol=1e-4)


def test_patches_are_cut_row_by_row(images: Tensor) -> None:
    patches = vision.patchify(images, 4)
    for row in range(3):
        for column in range(3):
            square = images[:, :, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4]
            assert torch.equal(patches[:, 3 * row + column], square.flatten(1))


@torch.no_grad()
def test_every_patch_sees_every_other(encoder: vision.VisionEncoder, images: Tensor) -> None:
    before = encoder(images)
    changed = images.clone()
    changed[:, :, -1, -1] += 1  # only the last patch
    assert ((encoder(changed) - before).abs().amax(dim=-1) > 1e-4).all()


@torch.no_grad()
def test_without_positions_the_order_of_patches_is_invisible(
    encoder: vision.VisionEncoder, images: Tensor
) -> None:
    swapped = torch.cat((images[..., 4:], images[..., :4]), dim=-1)  # columns of patches 1 2 0
    order = torch.tensor([1, 2, 0, 4, 5, 3, 7, 8, 6])
    assert not torch.allclose(encoder(swapped), encoder(images)[:, order], atol=1e-3)
    encoder.position_embedding.zero_()
    torch.testing.assert_close(encoder(swapped), encoder(images)[:, order])


@torch.no_grad()
def test_a_classifier_scores_the_mean_patch(encoder: vision.VisionEncoder, images: Tensor) -> None:
    classifier = vision.ImageClassifier(encoder, 7)
    mean = sum(encoder(images)[:, i] for i in range(9)) / 9
    expected = mean @ classifier.head.weight.T + classifier.head.bias
    torch.testing.assert_close(classifier(images), expected)


def test_initialise_depends_on_the_generator_alone() -> None:
    drawn = []
    for seed in (1, 1, 2):
        encoder = vision.VisionEncoder(CONFIG)
        vision.initialise(encoder, torch.Generator().manual_seed(seed))
        drawn.append(encoder.state_dict())
    assert all(torch.equal(drawn[0][name], drawn[1][name]) for name in drawn[0])
    assert not torch.equal(drawn[0]["position_embedding"], drawn[2]["position_embedding"])
    assert torch.equal(drawn[0]["norm.weight"], torch.ones(20))
    weight = drawn[0]["blocks.0.up_proj.weight"]
    assert weight.std().item() == pytest.approx((2 / (20 + 28)) ** 0.5, rel=0.1)


@pytest.mark.parametrize("shape", [(1, 3, 16, 16), (1, 1, 12, 12), (1, 3, 12, 8)])
def test_another_image_size_is_refused(
    encoder: vision.VisionEncoder, shape: tuple[int, ...]
) -> None:
    with pytest.raises(ValueError, match=r"takes images of shape \(3, 12, 12\).*resize"):
        encoder(torch.zeros(shape))


def test_uncuttable_images_are_refused(images: Tensor) -> None:
    with pytest.raises(ValueError, match="12 x 12 pixels cannot be cut into 5 x 5"):
        vision.patchify(images, 5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"patch_size": 3}, "patch_size=3 must divide image_size=8"),
        ({"num_heads": 5}, "num_heads=5 must divide width=64"),
        ({"num_layers": 0}, "num_layers=0 must be at least 1"),
        ({"ffn_width": 0}, "ffn_width=0"),
        ({"norm_eps": 0.0}, "norm_eps=0.0"),
    ],
)
def test_contradictions_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        vision.VisionConfig(**options)
