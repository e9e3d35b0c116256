"""What each operation of a MiniLLM saves for the backward pass, from shapes alone.

The rule is one: an operation keeps what its gradient needs, and only if that gradient is wanted. A
product a * b keeps a for the gradient of b. So a frozen weight's input is not kept, and a model
that trains through LoRA saves less.
"""

from dataclasses import dataclass, field

from labkit.model.config import ModelConfig
from labkit.training.parallel.memory_model import Layout, check_model
from labkit.tuning.lora import LoraConfig
from labkit.tuning.targets import ALL_LINEAR

RECOMPUTES = ("none", "selective", "full")
# Torch's Mersenne Twister on the CPU: what a recomputed segment keeps of the random state.
RANDOM_STATE_BYTES = 5056
LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """One training step, as far as its memory depends on it.

    Attributes:
        batch: B, sequences that go through the model together.
        length: T, tokens of each.
        item_bytes: i, of a parameter, gradient and activation: 4, or 2 for a model in 16 bits.
        recompute: "none", or a mode of `checkpointing.checkpointed`.
        lora: the adapters that train, the rest being frozen; None: all parameters train.
    """

    batch: int
    length: int
    item_bytes: int = 4
    recompute: str = "none"
    lora: LoraConfig | None = None

    def __post_init__(self) -> None:
        """Raise ValueError for what the account does not cover."""
        if self.batch < 1 or self.length < 2:
            raise ValueError(f"batch={self.batch} must be at least 1, length={self.length} 2")
        if self.item_bytes not in (2, 4):
            raise ValueError(f"item_bytes={self.item_bytes} must be 4 (float32) or 2")
        if self.recompute not in RECOMPUTES:
            raise ValueError(f"recompute={self.recompute!r} must be one of {list(RECOMPUTES)}")
        lora = self.lora
        if lora is not None and (lora.dropout or lora.use_dora or lora.bias != "none"):
            raise ValueError("the account covers LoRA without dropout, DoRA and trained biases")
        if lora is not None and not self.adapted:
            raise ValueError(f"target_modules={lora.target_modules!r} must name some of {LINEARS}")

    @property
    def tokens(self) -> int:
        """N = B T."""
        return self.batch * self.length

    @property
    def adapted(self) -> tuple[str, ...]:
        """The linear layers of a block that have an adapter."""
        if self.lora is None:
            return ()
        if self.lora.target_modules == ALL_LINEAR:
            return LINEARS
        return tuple(name for name in LINEARS if name in self.lora.target_modules)


@dataclass(frozen=True, slots=True)
class Saved:
    """One tensor kept for the backward pass: by which operation, what it is, bytes."""

    operation: str
    tensor: str
    bytes: int


@dataclass(slots=True)
class _Walk:
    """Goes through a block's operations in order; `True` travels where a gradient is wanted."""

    config: ModelConfig
    step: Step
    found: dict[str, Saved] = field(default_factory=dict)

    def save(self, operation: str, tensor: str, size: int) -> None:
        """The first operation that keeps a tensor pays for it."""
        self.found.setdefault(tensor, Saved(operation, tensor, size))

    def norm(self, name: str, wanted: bool) -> bool:
        trained, N, D = self.step.lora is None, self.step.tokens, self.config.width
        if wanted:
            self.save(name, f"{name} input, float32", 4 * N * D)
            self.save(name, f"{name} 1 / rms", 4 * N)
        if trained:
            self.save(name, f"{name} normalised", self.step.item_bytes * N * D)
        return wanted or trained

    def linear(self, name: str, source: str, width: int, wanted: bool) -> bool:
        N, i = self.step.tokens, self.step.item_bytes
        adapted = name in self.step.adapted
        if adapted or self.step.lora is None:
            self.save(name, source, i * N * width)
        if adapted and self.step.lora is not None:
            self.save(name, f"{name} x A^T", i * N * self.step.lora.rank)
        return wanted or adapted or self.step.lora is None

    def attention(self, wanted: bool) -> bool:
        c, N, i = self.config, self.step.tokens, self.step.item_bytes
        source = "input_layernorm output"
        names = ("q_proj", "k_proj", "v_proj")
        grads = [self.linear(name, source, c.width, wanted) for name in names]
        if any(grads):
            for name, heads in (("q", c.num_heads), ("k", c.num_kv_heads), ("v", c.num_kv_heads)):
                self.save("attention", name, i * N * heads * c.head_width)
            self.save("attention", "attention output", i * N * c.num_heads * c.head_width)
            self.save("attention", "log-sum-exp", 4 * N * c.num_heads)
        return self.linear("o_proj", "attention output", c.num_heads * c.head_width, any(grads))

    def ffn(self, wanted: bool) -> bool:
        c, size = self.config, self.step.item_bytes * self.step.tokens * self.config.ffn_width
        source = "post_attention_layernorm output"
        gate = self.linear("gate_proj", source, c.width, wanted)
        up = self.linear("up_proj", source, c.width, wanted)
        if gate:
            self.save("silu", "gate", size)
            self.save("silu(gate) * up", "up", size)
        if up:
            self.save("silu(gate) * up", "silu(gate)", size)
        return self.linear("down_proj", "silu(gate) * up output", c.ffn_width, gate or up)


def block_saves(config: ModelConfig, step: Step, *, first: bool = False) -> list[Saved]:
    """All tensors that one block saves when nothing is recomputed, parameters apart.

    Args:
        first: The block after the embedding: where that is frozen, no gradient is wanted of the
            block's input.
    """
    walk = _Walk(config, step)
    wanted = not (first and step.lora is not None)
    attended = walk.attention(walk.norm("input_layernorm", wanted))
    walk.ffn(walk.norm("post_attention_layernorm", wanted or attended))
    return list(walk.found.values())


def kept_block_bytes(config: ModelConfig, step: Step, *, first: bool = False) -> int:
    """What a block keeps until its backward pass, under the step's recomputation."""
    N, i, D = step.tokens, step.item_bytes, config.width
    if step.recompute == "full":
        return i * N * D
    found = block_saves(config, step, first=first)
    if step.recompute == "none":
        return sum(saved.bytes for saved in found)
    attention = {"attention", "q_proj", "k_proj", "v_proj", "o_proj"}
    return sum(s.bytes for s in found if s.operation not in attention) + i * N * D


def kept_bytes(config: ModelConfig, step: Step) -> dict[str, int]:
    """Saved activations of a whole forward pass and its loss, by part.

    "blocks", "final norm", "rope" (the two tables), "log-probabilities" (float32, N x V), "ids"
    (token ids and targets), "random states" (one a recomputed segment).

    Raises:
        ValueError: The model is not a dense pre-norm model with RMSNorm.
    """
    check_model(config, Layout())
    N = step.tokens
    rest = (config.num_layers - 1) * kept_block_bytes(config, step)
    head = _Walk(config, step)
    head.norm("norm", True)
    if step.lora is None:
        head.save("lm_head", "norm output", step.item_bytes * N * config.width)
    return {
        "blocks": rest + kept_block_bytes(config, step, first=True),
        "final norm": sum(saved.bytes for saved in head.found.values()),
        "rope": step.item_bytes * N * config.head_width,
        "log-probabilities": 4 * N * config.vocab_size,
        "ids": 8 * N * (2 if step.lora is None else 1),
        "random states": 0 if step.recompute == "none" else config.num_layers * RANDOM_STATE_BYTES,
    }
