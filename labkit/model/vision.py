"""A vision transformer: an image as a row of patches, each of which sees all others."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from labkit.model.layers import LayerNorm

POSITION_STD = 0.02


@dataclass(frozen=True, kw_only=True, slots=True)
class VisionConfig:
    """Shape of an encoder; the defaults suit scikit-learn's digits.

    Attributes:
        image_size: pixels along each side of the square image.
        patch_size: pixels along each side of a patch; divides `image_size`.
        channels: numbers a pixel.
        width: D, of the residual stream.
        num_layers: L, blocks.
        num_heads: H; divides `width`.
        ffn_width: F, of the hidden layer.
        norm_eps: added to the variance inside LayerNorm.
    """

    image_size: int = 8
    patch_size: int = 2
    channels: int = 1
    width: int = 64
    num_layers: int = 2
    num_heads: int = 4
    ffn_width: int = 128
    norm_eps: float = 1e-6

    def __post_init__(self) -> None:
        for name in ("image_size", "patch_size", "channels", "width", "num_layers", "num_heads"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")
        if self.ffn_width < 1 or not self.norm_eps > 0:
            raise ValueError(f"ffn_width={self.ffn_width}, norm_eps={self.norm_eps}: both positive")
        if self.image_size % self.patch_size:
            raise ValueError(
                f"patch_size={self.patch_size} must divide image_size={self.image_size}"
            )
        if self.width % self.num_heads:
            raise ValueError(f"num_heads={self.num_heads} must divide width={self.width}")

    @property
    def num_patches(self) -> int:
        """P = (image_size / patch_size)^2, tokens an image."""
        return (self.image_size // self.patch_size) ** 2

    @property
    def patch_values(self) -> int:
        """Numbers in one patch."""
        return self.channels * self.patch_size**2


def patchify(images: Float[Tensor, "B C Y X"], size: int) -> Float[Tensor, "B P values"]:
    """Cut images into squares of size x size, row by row, each laid out as (channel, row, column).

    Raises:
        ValueError: the sides are no multiples of the size.
    """
    B, C, Y, X = images.shape
    if Y % size or X % size:
        raise ValueError(f"images of {Y} x {X} pixels cannot be cut into {size} x {size} patches")
    cut = images.view(B, C, Y // size, size, X // size, size)
    return cut.permute(0, 2, 4, 1, 3, 5).reshape(B, -1, C * size * size)


class VisionAttention(nn.Module):
    """softmax(Q K^T / sqrt(K)) V over all patches: no mask, no rotation, biases everywhere."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.q_proj = nn.Linear(config.width, config.width)
        self.k_proj = nn.Linear(config.width, config.width)
        self.v_proj = nn.Linear(config.width, config.width)
        self.o_proj = nn.Linear(config.width, config.width)

    def forward(self, x: Float[Tensor, "B P D"]) -> Float[Tensor, "B P D"]:
        B, P, D = x.shape
        heads = (B, P, self.num_heads, D // self.num_heads)
        q, k, v = (
            layer(x).view(heads).transpose(1, 2)  # (B, P, D) -> (B, H, P, K)
            for layer in (self.q_proj, self.k_proj, self.v_proj)
        )
        y = functional.scaled_dot_product_attention(q, k, v)
        out: Tensor = self.o_proj(y.transpose(1, 2).reshape(B, P, D))
        return out


class VisionBlock(nn.Module):
    """x + Attention(norm(x)), then x + W_2 gelu(W_1 norm(x))."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.norm1 = LayerNorm(config.width, config.norm_eps)
        self.attention = VisionAttention(config)
        self.norm2 = LayerNorm(config.width, config.norm_eps)
        self.up_proj = nn.Linear(config.width, config.ffn_width)
        self.down_proj = nn.Linear(config.ffn_width, config.width)

    def forward(self, x: Float[Tensor, "B P D"]) -> Float[Tensor, "B P D"]:
        x = x + self.attention(self.norm1(x))
        y: Tensor = x + self.down_proj(functional.gelu(self.up_proj(self.norm2(x))))
        return y


class VisionEncoder(nn.Module):
    """z_0 = [patch_1 E, patch_2 E, ...] + E_pos, then L blocks and a norm: one vector a patch.

    Paper: arXiv 2010.11929, equations 1 to 4.
    Differs: no class token. What follows takes every patch, or their mean (as in appendix D.3);
    SigLIP's encoder (arXiv 2303.15343), which vision-language models are often built on, has none
    either.
    """

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.config = config
        self.patch_embedding = nn.Linear(config.patch_values, config.width)
        self.position_embedding = nn.Parameter(torch.zeros(config.num_patches, config.width))
        self.blocks = nn.ModuleList(VisionBlock(config) for _ in range(config.num_layers))
        self.norm = LayerNorm(config.width, config.norm_eps)

    def forward(self, images: Float[Tensor, "B C Y X"]) -> Float[Tensor, "B P D"]:
        """One vector for each patch, row by row.

        Raises:
            ValueError: channels or sides are not those of the configuration.
        """
        config = self.config
        expected = (config.channels, config.image_size, config.image_size)
        if tuple(images.shape[1:]) != expected:
            raise ValueError(
                f"the encoder takes images of shape {expected} (channels, rows, columns), got "
                f"{tuple(images.shape[1:])}: resize them"
            )
        patches = patchify(images, config.patch_size)
        x = self.patch_embedding(patches) + self.position_embedding
        for block in self.blocks:
            x = block(x)
        y: Tensor = self.norm(x)
        return y


class ImageClassifier(nn.Module):
    """Class scores from the mean of an encoder's patches: how the encoder learns to see."""

    def __init__(self, encoder: VisionEncoder, num_classes: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = nn.Linear(encoder.config.width, num_classes)

    def forward(self, images: Float[Tensor, "B C Y X"]) -> Float[Tensor, "B classes"]:
        scores: Tensor = self.head(self.encoder(images).mean(dim=1))
        return scores


@torch.no_grad()
def initialise(module: nn.Module, generator: torch.Generator) -> None:
    """Matrices uniform with variance 2 / (in + out), positions N(0, 0.02^2), biases 0, norms 1."""
    for name, parameter in module.named_parameters():
        if name.endswith("position_embedding"):
            parameter.normal_(0.0, POSITION_STD, generator=generator)
        elif parameter.ndim == 1:
            parameter.fill_(0.0 if name.endswith("bias") else 1.0)
        else:
            nn.init.xavier_uniform_(parameter, generator=generator)
