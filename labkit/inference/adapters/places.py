"""Where a MiniLLM can carry adapters: its projections, their shapes, and which share an input."""

from typing import NamedTuple

from labkit.model.config import ModelConfig

# Projections of one input stand together: their x A^T is one product.
ATTENTION_GROUPS = (("q_proj", "k_proj", "v_proj"), ("o_proj",))
FFN_GROUPS = (("gate_proj", "up_proj"), ("down_proj",))


class Place(NamedTuple):
    """One projection of one layer."""

    layer: int
    target: str


class Shape(NamedTuple):
    """Widths of a projection's input (I) and output (O)."""

    inputs: int
    outputs: int


def groups(config: ModelConfig) -> tuple[tuple[str, ...], ...]:
    """The targets by shared input; a mixture of experts has none in its feed-forward network.

    There each expert sees its own choice of tokens, in an order of its own, so that no row of its
    input belongs to a known request.
    """
    return ATTENTION_GROUPS if config.moe is not None else ATTENTION_GROUPS + FFN_GROUPS


def shapes(config: ModelConfig) -> dict[str, Shape]:
    """Input and output width of every target."""
    D, F, K = config.width, config.ffn_width, config.head_width
    queries, keys = config.num_heads * K, config.num_kv_heads * K
    known = {
        "q_proj": Shape(D, queries),
        "k_proj": Shape(D, keys),
        "v_proj": Shape(D, keys),
        "o_proj": Shape(queries, D),
        "gate_proj": Shape(D, F),
        "up_proj": Shape(D, F),
        "down_proj": Shape(F, D),
    }
    return {target: known[target] for group in groups(config) for target in group}


def path(place: Place) -> str:
    """The module's path in a MiniLLM, which is also the one in PEFT's files."""
    attention = any(place.target in group for group in ATTENTION_GROUPS)
    return f"model.layers.{place.layer}.{'self_attn' if attention else 'mlp'}.{place.target}"


def places(config: ModelConfig) -> dict[str, Place]:
    """Every place by its path."""
    return {
        path(place): place
        for layer in range(config.num_layers)
        for place in (Place(layer, target) for target in shapes(config))
    }
