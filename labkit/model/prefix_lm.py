"""GLM's attention: both ways within the prompt, causal after it, and a position of two numbers.

Paper: arXiv 2103.10360, sections 2.1 and 2.2. Differs: it has learnt position vectors; two rotary
angles are what ChatGLM-6B made of them.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from labkit.model.layers import Rope, rope_table
from labkit.model.minillm import MiniLLM, default_positions


def prefix_mask(prefix_lengths: Int[Tensor, "B"], length: int) -> Bool[Tensor, "B 1 T T"]:
    """True where query i may see key j: j <= i, or j lies in the row's prefix.

    Tokens of the prefix see all of it and nothing after it.

    Raises:
        ValueError: a prefix is negative or longer than the rows.
    """
    if bool(((prefix_lengths < 0) | (prefix_lengths > length)).any()):
        raise ValueError(f"prefixes of {prefix_lengths.tolist()} must lie in [0, {length}]")
    places = torch.arange(length, device=prefix_lengths.device)
    causal = places <= places[:, None]
    in_prefix = places < prefix_lengths[:, None]  # (B, S)
    return (causal | in_prefix[:, None, :])[:, None]


def rope_table_2d(
    positions: Int[Tensor, "B T"],
    block_positions: Int[Tensor, "B T"],
    head_width: int,
    theta: float,
) -> Rope:
    """cos and sin that turn one half of a head by one position, the other half by the other.

    The scores of attention then depend on the two differences of positions and on nothing else.

    Raises:
        ValueError: head_width is no multiple of 4.
    """
    if head_width % 4:
        raise ValueError(f"head_width={head_width} must be a multiple of 4: pairs in two halves")
    first = rope_table(positions, head_width // 2, theta)
    second = rope_table(block_positions, head_width // 2, theta)
    cos, sin = (torch.cat(parts, dim=-1) for parts in zip(first, second, strict=True))
    return cos, sin


def prefix_logits(
    model: MiniLLM,
    ids: Int[Tensor, "B T"],
    prefix_lengths: Int[Tensor, "B"],
    *,
    positions: Int[Tensor, "B T"] | None = None,
    block_positions: Int[Tensor, "B T"] | None = None,
) -> Float[Tensor, "B T V"]:
    """Logits of a MiniLLM under `prefix_mask`; with prefixes of 0 or 1 they are the model's own.

    What stands at a place of the prefix has seen the next token: only the logits from the prefix's
    last place on may carry a loss.

    Args:
        model: MiniLLM.
        ids: Prompts with their answers, padded on the right.
        prefix_lengths: Tokens of each row that see each other both ways.
        positions: Default: 0, 1, ...
        block_positions: GLM's second position; None for plain RoPE over `positions`.
    """
    if positions is None:
        positions = default_positions(ids, 0, None)
    K, theta = model.config.head_width, model.config.rope_theta
    if block_positions is None:
        cos, sin = rope_table(positions, K, theta)
    else:
        cos, sin = rope_table_2d(positions, block_positions, K, theta)
    mask = prefix_mask(prefix_lengths, ids.shape[1])
    x = model.model.embed_tokens(ids)
    rope = (cos.to(x.dtype), sin.to(x.dtype))
    for block in model.model.layers:
        x = block(x, rope, mask)
    logits: Tensor = model.lm_head(model.model.norm(x))
    return logits
