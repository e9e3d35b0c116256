"""Bytes that one rank holds in training a MiniLLM, from its shape alone.

Model state is exact for the parallelism of this package; activations are exactly what autograd
saves for a dense pre-norm model, block by block. What comes and goes inside an operator is not in.
"""

from dataclasses import dataclass

from labkit.model.config import ModelConfig
from labkit.training.parallel.zero import zero_memory

RECOMPUTES = ("none", "full")


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """How a step is spread over ranks.

    Attributes:
        data: d, replicas that share the batch.
        tensor: t, ranks that share each matrix.
        pipeline: p, ranks in a row, under 1F1B.
        microbatch: B, sequences in one pass.
        microbatches: m, passes of one step on each replica.
        recompute: "none", or "full": a block keeps its input only and runs forward again.
        zero_stage: 0 to 3, over the d replicas; above 1 only without a pipeline, whose every
            micro-batch would reduce or gather anew.
    """

    data: int = 1
    tensor: int = 1
    pipeline: int = 1
    microbatch: int = 1
    microbatches: int = 1
    recompute: str = "none"
    zero_stage: int = 0

    def __post_init__(self) -> None:
        for name in ("data", "tensor", "pipeline", "microbatch", "microbatches"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")
        if self.recompute not in RECOMPUTES:
            raise ValueError(f"recompute={self.recompute!r} must be 'none' or 'full'")
        if self.zero_stage not in (0, 1, 2, 3):
            raise ValueError(f"zero_stage={self.zero_stage} must be 0, 1, 2 or 3")
        if self.zero_stage > 1 and self.pipeline > 1:
            raise ValueError(
                f"zero_stage={self.zero_stage} with pipeline={self.pipeline}: use stage 1 at most"
            )

    @property
    def ranks(self) -> int:
        """d t p."""
        return self.data * self.tensor * self.pipeline

    @property
    def batch(self) -> int:
        """Sequences in one step: d B m."""
        return self.data * self.microbatch * self.microbatches


def check_model(config: ModelConfig, layout: Layout) -> None:
    """Whether this package can spread the model so.

    Raises:
        ValueError: it cannot, with the reason.
    """
    if config.moe is not None or config.norm_position != "pre" or config.norm != "rms":
        raise ValueError("the memory model covers dense pre-norm models with RMSNorm")
    for name in ("num_heads", "num_kv_heads", "ffn_width"):
        if getattr(config, name) % layout.tensor:
            raise ValueError(f"tensor={layout.tensor} must divide {name}={getattr(config, name)}")
    if layout.pipeline > config.num_layers:
        raise ValueError(f"pipeline={layout.pipeline} exceeds num_layers={config.num_layers}")


def block_parameters(config: ModelConfig, t: int) -> int:
    """Of one block on one of t ranks: (2 D H K + 2 D G K + 3 D F) / t + 2 D."""
    D, H, G, K = config.width, config.num_heads, config.num_kv_heads, config.head_width
    return (2 * D * H * K + 2 * D * G * K + 3 * D * config.ffn_width) // t + 2 * D


def stage_layers(config: ModelConfig, layout: Layout, stage: int) -> int:
    """Blocks of one pipeline stage, as `pipeline.split` deals them out."""
    L, p = config.num_layers, layout.pipeline
    return L * (stage + 1) // p - L * stage // p


def stage_parameters(config: ModelConfig, layout: Layout, stage: int) -> int:
    """Parameters on the first tensor rank of a stage, the one with the most vocabulary rows.

    Tied ends of a pipeline hold the embedding twice.
    """
    first, last = stage == 0, stage == layout.pipeline - 1
    rows = -(-config.vocab_size // layout.tensor)
    shared = first and last and config.tie_embeddings
    matrices = 1 if shared else int(first) + int(last)
    blocks = stage_layers(config, layout, stage) * block_parameters(config, layout.tensor)
    return blocks + matrices * rows * config.width + (config.width if last else 0)


def state_bytes(config: ModelConfig, layout: Layout, stage: int, *, item_bytes: int = 2) -> int:
    """Parameters, gradients and Adam's state of one rank, before the optimizer's step."""
    numel = stage_parameters(config, layout, stage)
    return zero_memory(numel, layout.data, layout.zero_stage, item_bytes=item_bytes).total


def block_activation_bytes(
    config: ModelConfig, B: int, T: int, t: int = 1, *, item_bytes: int = 2
) -> int:
    """What autograd saves in one block for B T = N tokens, on one of t ranks.

    Each of two norms: its input in float32, the normalised and the scaled stream,
    (4 + 2 i) N D, and 4 N for 1 / rms. Attention: q, k, v, y, i N (2 H + 2 G) K / t, and float32
    logsumexp, 4 N H / t. SwiGLU: gate, silu(gate), up and the product, 4 i N F / t.
    """
    N, i = B * T, item_bytes
    heads = 2 * config.num_heads + 2 * config.num_kv_heads
    norms = 2 * ((4 + 2 * i) * N * config.width + 4 * N)
    attention = i * N * heads * config.head_width + 4 * N * config.num_heads
    return norms + (attention + 4 * i * N * config.ffn_width) // t


def activation_bytes(
    config: ModelConfig, layout: Layout, T: int, stage: int, *, item_bytes: int = 2
) -> int:
    """Saved for all micro-batches in flight at a stage of 1F1B: min(m, p - stage) of them.

    The last stage adds the final norm and the loss's float32 probabilities, 4 N V / t. With full
    recomputation a block keeps its input, and one block at a time is whole.
    """
    B, t = layout.microbatch, layout.tensor
    block = block_activation_bytes(config, B, T, t, item_bytes=item_bytes)
    layers, stream = stage_layers(config, layout, stage), B * T * config.width
    kept = layers * (block if layout.recompute == "none" else item_bytes * stream)
    if stage == layout.pipeline - 1:
        rows = -(-config.vocab_size // t)
        kept += (4 + 2 * item_bytes) * stream + 4 * B * T + 4 * B * T * rows
    in_flight = min(layout.microbatches, layout.pipeline - stage)
    return in_flight * kept + (block if layout.recompute == "full" else 0)


def peak_bytes(config: ModelConfig, layout: Layout, T: int, *, item_bytes: int = 2) -> int:
    """State and saved activations of the fullest rank.

    Raises:
        ValueError: the model cannot be spread so.
    """
    check_model(config, layout)
    return max(
        state_bytes(config, layout, stage, item_bytes=item_bytes)
        + activation_bytes(config, layout, T, stage, item_bytes=item_bytes)
        for stage in range(layout.pipeline)
    )
