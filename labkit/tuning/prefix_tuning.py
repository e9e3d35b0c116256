"""Prefix tuning, and P-tuning v2: trained keys and values in every layer before the real ones.

A prefix is a KV cache filled beforehand. With `projection` a network makes it (prefix tuning);
without, keys and values train themselves (P-tuning v2's deep prompts). There is no merge.
"""

import sys
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from labkit.model.cache import KVCache
from labkit.model.minillm import MiniLLM
from labkit.tuning import adapted, soft_prompt
from labkit.tuning.soft_prompt import Kwargs, SoftPrompt

Model = TypeVar("Model", bound=nn.Module)
_INIT_STD = 0.02


@dataclass(frozen=True, kw_only=True, slots=True)
class PrefixTuningConfig:
    """How many virtual tokens, and what makes their keys and values.

    Args:
        num_virtual_tokens: P.
        projection: make them by a network, which is thrown away after training.
        hidden: width of its hidden layer.
        init_ids: one token for each, whose own keys and values they start from; not with a
            projection. By default they are drawn from N(0, 0.02^2), rows before a projection from
            N(0, 1).
    """

    num_virtual_tokens: int = 20
    projection: bool = False
    hidden: int = 128
    init_ids: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        soft_prompt.check_tokens(self.num_virtual_tokens, self.init_ids)
        if self.hidden < 1:
            raise ValueError(f"hidden={self.hidden} must be at least 1")
        if self.projection and self.init_ids is not None:
            raise ValueError("init_ids sets keys and values, which projection=True computes")


class PrefixCache(KVCache):
    """A prefix as the cache of one training step: it passes gradients on and keeps no new rows.

    Args:
        keys, values: (L, B, G, P, K).
    """

    def __init__(
        self, keys: Float[Tensor, "L B G P K"], values: Float[Tensor, "L B G P K"]
    ) -> None:
        self.keys, self.values = keys, values
        self.length = keys.shape[3]

    def append(
        self, layer: int, k: Float[Tensor, "B G T K"], v: Float[Tensor, "B G T K"]
    ) -> tuple[Float[Tensor, "B G S K"], Float[Tensor, "B G S K"]]:
        """The prefix and the T new rows."""
        return torch.cat((self.keys[layer], k), dim=2), torch.cat((self.values[layer], v), dim=2)

    def key_positions(self, T: int) -> Int[Tensor, "S"]:
        """All of them."""
        return torch.arange(self.length + T, device=self.keys.device)

    def advance(self, T: int) -> None:
        """Nothing: the call is over."""


class Prefix(SoftPrompt):
    """Keys and values (L, 2, G, P, K) as P rows of 2 L G K numbers, in PEFT's order.

    P 2 L G K weights train, or with a projection P G K + (G K + 1) hidden + (hidden + 1) 2 L G K.

    Paper: arXiv 2101.00190, section 4; without projection arXiv 2110.07602, section 3.

    Args:
        model: gives L, G and K.
        config: the prefix.
    """

    method = "prefix tuning"

    def __init__(self, model: nn.Module, config: PrefixTuningConfig) -> None:
        super().__init__(model, config.num_virtual_tokens)
        self.shape = L, G, K = cache_shape(model)
        P, width = config.num_virtual_tokens, 2 * L * G * K
        self.transform: nn.Sequential | None = None
        if config.projection:
            self.embedding = nn.Embedding(P, G * K)
            self.transform = nn.Sequential(
                nn.Linear(G * K, config.hidden), nn.Tanh(), nn.Linear(config.hidden, width)
            )
        else:
            self.prompt_embeddings = nn.Parameter(torch.randn(P, width) * _INIT_STD)

    def rows(self) -> Float[Tensor, "P width"]:
        """The prefix, as a file holds it."""
        if self.transform is None:
            return self.prompt_embeddings
        out: Tensor = self.transform(self.embedding.weight)
        return out

    def keys_values(
        self, batch_size: int
    ) -> tuple[Float[Tensor, "L B G P K"], Float[Tensor, "L B G P K"]]:
        """Keys and values, the same for each row of the batch."""
        L, G, K = self.shape
        both = self.rows().view(-1, L, 2, G, K).permute(2, 1, 3, 0, 4)  # (2, L, G, P, K)
        keys, values = both[:, :, None].expand(-1, -1, batch_size, -1, -1, -1).unbind()
        return keys, values

    def enter(self, model: nn.Module, kwargs: Kwargs) -> None:
        if self.cached(kwargs):
            return
        keys, values = self.keys_values(len(kwargs[self.names.ids]))
        cache = kwargs.get(self.names.cache)
        if isinstance(model, MiniLLM):
            dtype = model.model.embed_tokens.weight.dtype
            keys, values = keys.to(dtype), values.to(dtype)
            if cache is None:
                kwargs[self.names.cache] = PrefixCache(keys, values)
            else:
                _fill(cache, keys.detach(), values.detach())
            return
        cache = _transformers_cache(model) if cache is None else cache
        for layer, (k, v) in enumerate(zip(keys, values, strict=True)):
            cache.update(k.to(model.dtype), v.to(model.dtype), layer)
        kwargs[self.names.cache] = cache


def apply(
    model: Model,
    config: PrefixTuningConfig,
    *,
    generator: torch.Generator | None = None,
    dtype: torch.dtype | None = None,
) -> Model:
    """Freeze the model and put P virtual tokens before every sequence in every layer, in place.

    The outputs change at once; from `init_ids`, they are those after these tokens. A file holds
    finished keys and values and is read without projection.

    Args:
        model: a MiniLLM or a transformers decoder.
        config: the prefix.
        generator: draws it; by default a fresh one with seed 0.
        dtype: of what trains, by default the embedding's.

    Returns:
        The same model.

    Raises:
        ValueError: the model is of another kind or has adapters, or a sliding window, which would
            roll over the prefix.
    """
    adapted.refuse_adapted(model)
    prefix = draw(model, config, generator, dtype)
    model.requires_grad_(False)
    prefix.install(model)
    return model


def draw(
    model: nn.Module,
    config: PrefixTuningConfig,
    generator: torch.Generator | None = None,
    dtype: torch.dtype | None = None,
    kind: type[Prefix] = Prefix,
) -> Prefix:
    """A prefix for the model, not installed yet; arguments as for `apply`, and its class.

    Raises:
        ValueError: as `apply`.
    """
    weight = soft_prompt.embedding(model).weight
    if (window := getattr(model.config, "sliding_window", None)) is not None:
        raise ValueError(f"sliding_window={window} would roll over the prefix: use prompt tuning")
    with soft_prompt.drawing(generator):
        prefix = kind(model, config)
    if config.init_ids is not None:
        with torch.no_grad():
            prefix.prompt_embeddings.copy_(_own_rows(model, config.init_ids))
    return prefix.to(weight.device, dtype or weight.dtype)


def remove(model: Model) -> Model:
    """Take the prefix away, in place."""
    soft_prompt.of(model, Prefix).uninstall(model)
    return model


def cache_shape(model: nn.Module) -> tuple[int, int, int]:
    """L, G, K: layers, key/value heads, width of a head."""
    if isinstance(model, MiniLLM):
        return model.config.num_layers, model.config.num_kv_heads, model.config.head_width
    config: Any = model.config
    heads = config.num_attention_heads
    groups = getattr(config, "num_key_value_heads", None) or heads
    width = getattr(config, "head_dim", None) or config.hidden_size // heads
    return config.num_hidden_layers, groups, width


def _fill(cache: KVCache, keys: Tensor, values: Tensor) -> None:
    for layer, (k, v) in enumerate(zip(keys, values, strict=True)):
        cache.append(layer, k, v)
    cache.advance(keys.shape[3])


def _transformers_cache(model: nn.Module) -> Any:
    """An empty cache of the class that the model's own module uses; labkit imports none."""
    module = sys.modules[type(model).__module__]
    if (kind := getattr(module, "DynamicCache", None)) is None:
        raise ValueError(f"{module.__name__} has no DynamicCache: pass the model an empty cache")
    return kind()


@torch.no_grad()
def _own_rows(model: nn.Module, init_ids: tuple[int, ...]) -> Tensor:
    """Keys and values that the model itself gives these tokens, as (P, 2 L G K)."""
    weight = soft_prompt.embedding(model).weight
    ids = torch.tensor([init_ids], device=weight.device)
    if isinstance(model, MiniLLM):
        cache = KVCache(
            model.config,
            batch_size=1,
            max_length=len(init_ids),
            dtype=weight.dtype,
            device=weight.device,
        )
        model(ids, cache=cache)
        both = torch.stack((cache.keys[:, 0], cache.values[:, 0]), dim=1)
    else:
        held = _transformers_cache(model)
        model(input_ids=ids, past_key_values=held, use_cache=True)
        both = torch.stack([torch.cat((layer.keys, layer.values)) for layer in held.layers])
    return both.permute(3, 0, 1, 2, 4).flatten(1)  # (L, 2, G, P, K) -> (P, 2 L G K)
