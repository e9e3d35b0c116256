"""The peak of a training step, foretold: what lives at each moment that can be the fullest.

A step goes up and down: activations pile up in the forward pass, logits come and go at its end,
gradients pile up in the backward pass while activations leave, the optimizer needs scratch space.
The peak is the largest of a few moments, and which one it is depends on the shapes.
"""

from dataclasses import dataclass

from labkit.model.config import ModelConfig
from labkit.training.efficiency.saved_activations import (
    Step,
    block_saves,
    kept_block_bytes,
    kept_bytes,
)
from labkit.training.parallel.memory_model import block_parameters


@dataclass(frozen=True, kw_only=True, slots=True)
class Account:
    """Bytes of one step that follows others, so that the optimizer has its state.

    Attributes:
        parameters: Of the model, adapters included.
        gradients: Of all that trains, at the end of the backward pass.
        optimizer: AdamW's two moments, of the parameters' type.
        activations: Saved for backward when the loss is known, the log-probabilities included.
        moments: What lives at each moment that can be the peak.
    """

    parameters: int
    gradients: int
    optimizer: int
    activations: int
    moments: dict[str, int]

    @property
    def peak(self) -> int:
        """Of the fullest moment."""
        return max(self.moments.values())

    @property
    def peak_moment(self) -> str:
        """Which moment that is."""
        return max(self.moments, key=lambda moment: self.moments[moment])


def account(config: ModelConfig, step: Step) -> Account:
    """Everything that a step of this model holds, from shapes alone.

    Raises:
        ValueError: The model is not a dense pre-norm model with RMSNorm.
    """
    kept = kept_bytes(config, step)
    i, trained = step.item_bytes, trained_parameters(config, step)
    frozen = 0 if step.lora is None else config.num_parameters
    return Account(
        parameters=i * (trained + frozen),
        gradients=i * trained,
        optimizer=2 * i * trained,
        activations=sum(kept.values()),
        moments=_moments(config, step, kept),
    )


def trained_parameters(config: ModelConfig, step: Step) -> int:
    """All, or R (I + O) for each adapted linear layer."""
    if step.lora is None:
        return config.num_parameters
    shapes = _shapes(config)
    return config.num_layers * step.lora.rank * sum(sum(shapes[n]) for n in step.adapted)


def _shapes(config: ModelConfig) -> dict[str, tuple[int, int]]:
    """Outputs and inputs of a block's linear layers."""
    D, F = config.width, config.ffn_width
    queries, keys = (n * config.head_width for n in (config.num_heads, config.num_kv_heads))
    return {
        "q_proj": (queries, D),
        "k_proj": (keys, D),
        "v_proj": (keys, D),
        "o_proj": (D, queries),
        "gate_proj": (F, D),
        "up_proj": (F, D),
        "down_proj": (D, F),
    }


def _moments(config: ModelConfig, step: Step, kept: dict[str, int]) -> dict[str, int]:
    """Bytes alive at the loss's backward, the head's, two blocks', the embedding's, and the step.

    Between its first and last block a backward pass changes evenly, so that one of the two is the
    fullest. The loss's backward holds three float32 tensors of N x V: the saved log-probabilities,
    and the gradients of them and of the logits.
    """
    N, V, D, i = step.tokens, config.vocab_size, config.width, step.item_bytes
    full, trained = step.lora is None, i * trained_parameters(config, step)
    frozen = 0 if full else i * config.num_parameters
    state = frozen + 3 * trained  # parameters and two moments
    matrix = i * V * D if full else 0
    block = i * block_parameters(config, 1) if full else trained // config.num_layers
    heads = matrix + (i * D if full else 0)
    saved, log_probs = sum(kept.values()), kept["log-probabilities"]
    below = saved - log_probs - kept["final norm"]
    first = kept_block_bytes(config, step, first=True)
    work, first_work = (_block_work(config, step, first=flag) for flag in (False, True))
    return {
        "loss": state + saved + 2 * log_probs,
        "head": state + saved - log_probs + i * N * V + i * N * D + matrix,
        "last block": state + below + heads + work,
        "first block": state + below - kept["blocks"] + first + heads
        + (config.num_layers - 1) * block + first_work,
        # A tied matrix has the head's gradient already when the embedding's comes, as large again.
        "embedding": state + trained + (matrix if config.tie_embeddings else 0) + i * N * D,
        "optimizer": state + trained + 2 * _largest(config, step),
    }  # fmt: skip


def _block_work(config: ModelConfig, step: Step, *, first: bool) -> int:
    """What a block's backward pass adds to what is kept, at its fullest.

    That is at the product silu(gate) * up: its own gradient and those of its factors, 3 i N F, in
    place of the product, i N F, beside the stream's gradient and the weight's.
    """
    size = step.item_bytes * step.tokens
    whole = sum(saved.bytes for saved in block_saves(config, step, first=first))
    again = whole if step.recompute == "full" else 0
    full = step.lora is None
    weight = step.item_bytes * config.width * config.ffn_width if full else 0
    product = 2 if full or "down_proj" in step.adapted else 3
    return again + product * size * config.ffn_width + size * config.width + weight


def _largest(config: ModelConfig, step: Step) -> int:
    """The largest tensor that the optimizer steps."""
    if step.lora is None:
        F = config.ffn_width
        return step.item_bytes * config.width * max(config.vocab_size, F)
    shapes = _shapes(config)
    return step.item_bytes * step.lora.rank * max(max(shapes[n]) for n in step.adapted)
