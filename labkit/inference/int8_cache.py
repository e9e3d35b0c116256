"""Keys and values in 8 bits, with a scale for each token and head: half the bytes of bfloat16."""

from typing import Literal

import torch
from jaxtyping import Float, Int, Int8
from torch import Tensor

from labkit.inference.paged_cache import PagedCache, joined
from labkit.model.config import ModelConfig

KVFormat = Literal["model", "int8"]
LEAST = 1e-12  # taken for the largest number of a token that is all zeros


class Int8PagedCache(PagedCache):
    """Keys (L, P, G, K, page) and values (L, P, G, page, K) in int8, scales (L, P, G, page).

    x ~ scale * q with q in [-127, 127] and scale = max |x| / 127 over the K numbers of one token
    and head, so that a token is never rounded again when others come. A token takes 2 L G (K + 4)
    bytes, where bfloat16 takes 4 L G K.

    Differs: arXiv 2402.02750 scales keys by channel over groups of tokens, which lets it go down to
    2 bits but keeps the group under way in full precision; with 8 bits a scale a token is enough.

    Args:
        config: gives L, G and K.
        num_pages: P.
        page_size: tokens a page holds.
        device: where they lie.
    """

    def __init__(
        self,
        config: ModelConfig,
        *,
        num_pages: int,
        page_size: int,
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__(
            config, num_pages=num_pages, page_size=page_size, dtype=torch.int8, device=device
        )
        shape = (config.num_layers, num_pages, config.num_kv_heads, page_size)
        self.key_scales = torch.zeros(shape, device=device)
        self.value_scales = torch.zeros(shape, device=device)

    @property
    def parts(self) -> list[Tensor]:
        return [self.key_scales, self.value_scales, self.keys, self.values]

    def write(
        self,
        layer: int,
        places: Int[Tensor, " N"],
        k: Float[Tensor, "N G K"],
        v: Float[Tensor, "N G K"],
    ) -> None:
        """Round each token's keys and values into its place."""
        page, row = places // self.page_size, places % self.page_size
        self.keys[layer][page, :, :, row], self.key_scales[layer][page, :, row] = rounded(k)
        self.values[layer][page, :, row], self.value_scales[layer][page, :, row] = rounded(v)

    def read(
        self, layer: int, tables: Int[Tensor, "B W"]
    ) -> tuple[Float[Tensor, "B G S K"], Float[Tensor, "B G S K"]]:
        """As `PagedCache.read`, in float32."""
        k, v = joined(self.keys[layer][tables], self.values[layer][tables])
        scales = [part[layer][tables] for part in (self.key_scales, self.value_scales)]
        by_token = [part.transpose(1, 2).flatten(2) for part in scales]  # (B, W, G, page) -> B G S
        return k * by_token[0][..., None], v * by_token[1][..., None]


def rounded(
    x: Float[Tensor, "N G K"],
) -> tuple[Int8[Tensor, "N G K"], Float[Tensor, "N G"]]:
    """q and scale of x ~ scale * q, as the native kernels round."""
    x = x.float()
    scale = x.abs().amax(-1).clamp(min=LEAST) / 127
    return (x * (1 / scale)[..., None]).round().to(torch.int8), scale


def build_cache(
    config: ModelConfig,
    *,
    kv: KVFormat,
    num_pages: int,
    page_size: int,
    dtype: torch.dtype,
    device: torch.device | str = "cpu",
) -> PagedCache:
    """Pages in the model's own type, or in 8 bits.

    Args:
        config: gives L, G and K.
        kv: "model" or "int8".
        num_pages: P.
        page_size: tokens a page holds.
        dtype: the model's own.
        device: where they lie.
    """
    if kv == "int8":
        return Int8PagedCache(config, num_pages=num_pages, page_size=page_size, device=device)
    return PagedCache(config, num_pages=num_pages, page_size=page_size, dtype=dtype, device=device)
