"""The training loop: a generator of step records."""

import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from labkit.data.batch import TokenBatch
from labkit.training import checkpoint, resuming
from labkit.training.clipping import clip_gradients, gradient_norm
from labkit.training.config import TrainConfig
from labkit.training.forward import causal_lm_loss
from labkit.training.schedule import cosine_with_warmup

Loss = Callable[[nn.Module, TokenBatch], tuple[Tensor, int]]
CHECKPOINT_NAME = "checkpoint.safetensors"


@runtime_checkable
class AfterStep(Protocol):
    """Acts on the model after every step while the gradients are there, as AdaLoRA's allocator."""

    def update(self, step: int) -> None:
        """Called with the step's number, counted from 1."""

    def state_dict(self) -> dict[str, dict[str, Tensor]]:
        """Kept with the run's checkpoint."""

    def load_state_dict(self, state: dict[str, dict[str, Tensor]]) -> None:
        """Given back when a run is resumed."""


class DivergedError(ValueError):
    """A loss or gradient is no longer finite; the weights are those before the failed step."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StepRecord:
    """What one optimizer step did.

    Attributes:
        step: Counted from 1.
        loss_nats: Mean loss a predicted token, before the step.
        tokens: Predicted tokens in the step, over all its micro-batches.
        grad_norm: Global gradient norm before clipping.
        lr: Learning rate of the step.
        seconds: Wall time of the step, data included.
    """

    step: int
    loss_nats: float
    tokens: int
    grad_norm: float
    lr: float
    seconds: float


def train(
    model: nn.Module,
    batches: Iterable[TokenBatch],
    config: TrainConfig,
    *,
    loss: Loss = causal_lm_loss,
    after_step: AfterStep | None = None,
    checkpoint_dir: Path | str | None = None,
    resume: bool = False,
    generator: torch.Generator | None = None,
) -> Iterator[StepRecord]:
    """Train the parameters that require a gradient with AdamW, yielding a record a step.

    Gradients of *summed* losses are added over the micro-batches and divided once by all predicted
    tokens, so that accumulating 8 ragged micro-batches equals one batch of all their rows.
    Between two records the model is in the mode (train or eval) in which the caller left it.

    Differs: the common mean of micro-batch means weighs a token by how short its batch is.

    Args:
        model: MiniLLM or a transformers model; trained in place.
        batches: Micro-batches. A resumed run must be given the same ones from the start: those
            already trained on are drawn and passed over.
        config: Settings.
        loss: From model and batch to (summed loss in nats, number of predicted tokens).
        after_step: Updated after every step; its state is stored and restored too.
        checkpoint_dir: Where ``checkpoint.safetensors`` is written and looked for.
        resume: Continue from the checkpoint, if there is one, bit for bit.
        generator: Random state that ``loss`` or ``batches`` draw from; stored and restored.

    Yields:
        One record for each step, after its checkpoint (if one is due) is on disk.

    Raises:
        DivergedError: If loss or gradient is not finite.
        ValueError: If nothing is trainable, a step has no token to predict, batches run out, or
            the checkpoint is of another run.
    """
    if resume and checkpoint_dir is None:
        raise ValueError("resume=True needs checkpoint_dir, the folder of the checkpoint")
    run = _Run(model, config, loss, after_step, checkpoint_dir, generator)
    done = run.restore() if resume else 0
    source = iter(batches)
    resuming.pass_over(source, done, config)
    run.restore_generator()
    for step in range(done + 1, config.steps + 1):
        started = time.perf_counter()
        yield run.step(step, resuming.draw(source, step, config), started)


def build_optimizer(model: nn.Module, config: TrainConfig) -> AdamW:
    """AdamW over the trainable parameters, decaying matrices but not norms and biases.

    Paper: 1711.05101 (decoupled weight decay), algorithm 2.

    Raises:
        ValueError: If no parameter requires a gradient.
    """
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not trainable:
        raise ValueError("no parameter of the model requires a gradient: nothing would be trained")
    matrices = [parameter for parameter in trainable if parameter.dim() >= 2]
    others = [parameter for parameter in trainable if parameter.dim() < 2]
    groups = [
        {"params": matrices, "weight_decay": config.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    return AdamW(groups, lr=config.lr, betas=config.betas, fused=True)  # one pass over each state


def learning_rate(step: int, config: TrainConfig) -> float:
    """The rate of a step, counted from 1."""
    return cosine_with_warmup(
        step - 1,
        lr=config.lr,
        steps=config.steps,
        warmup_steps=config.warmup_steps,
        min_lr_ratio=config.min_lr_ratio,
    )


class _Run:
    """The state that lives as long as one call of :func:`train`."""

    def __init__(
        self,
        model: nn.Module,
        config: TrainConfig,
        loss: Loss,
        after_step: AfterStep | None,
        checkpoint_dir: Path | str | None,
        generator: torch.Generator | None,
    ) -> None:
        self.model = model
        self.config = config
        self.loss = loss
        self.after_step = after_step
        self.path = None if checkpoint_dir is None else Path(checkpoint_dir) / CHECKPOINT_NAME
        self.generator = generator
        self.generator_state: Tensor | None = None
        self.optimizer: Optimizer = build_optimizer(model, config)
        self.trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.device = self.trainable[0].device

    def step(self, step: int, micro_batches: list[TokenBatch], started: float) -> StepRecord:
        lr = self._set_lr(step)
        loss_sum, tokens = self._accumulate(step, micro_batches)
        if tokens == 0:
            raise ValueError(f"step {step} has no token to predict: all labels are ignored")
        for parameter in self.trainable:
            if parameter.grad is not None:
                parameter.grad.div_(tokens)
        norm = self._clip()
        self._require_finite(step, loss_sum / tokens, norm, lr)
        self.optimizer.step()
        if self.after_step is not None:
            self.after_step.update(step)
        self.optimizer.zero_grad(set_to_none=True)
        self._checkpoint_if_due(step)
        return StepRecord(
            step=step,
            loss_nats=loss_sum / tokens,
            tokens=tokens,
            grad_norm=norm,
            lr=lr,
            seconds=time.perf_counter() - started,
        )

    def _set_lr(self, step: int) -> float:
        lr = learning_rate(step, self.config)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        return lr

    def _accumulate(self, step: int, micro_batches: list[TokenBatch]) -> tuple[float, int]:
        """Add the gradients of the summed losses; randomness is a function of (seed, step)."""
        self.optimizer.zero_grad(set_to_none=True)
        was_training = self.model.training
        self.model.train()
        total, tokens = 0.0, 0
        cuda = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices=cuda):
            torch.manual_seed(self.config.seed * 1_000_003 + step)
            for batch in micro_batches:
                with self._autocast():
                    loss_sum, count = self.loss(self.model, batch.to(self.device))
                loss_sum.backward()
                total += loss_sum.item()
                tokens += count
        self.model.train(was_training)
        return total, tokens

    def _autocast(self) -> torch.autocast:
        enabled = self.config.dtype == "bfloat16"
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=enabled)

    def _clip(self) -> float:
        if self.config.clip_norm is None:
            return gradient_norm(self.trainable).item()
        return clip_gradients(self.trainable, self.config.clip_norm).item()

    def _require_finite(self, step: int, loss: float, norm: float, lr: float) -> None:
        if math.isfinite(loss) and math.isfinite(norm):
            return
        self.optimizer.zero_grad(set_to_none=True)
        raise DivergedError(
            f"step {step}: loss is {loss} and gradient norm {norm} at lr={lr:g}; the weights are "
            "those of the step before. Lower lr or clip_norm, or raise warmup_steps"
        )

    def _checkpoint_if_due(self, step: int) -> None:
        if self.path is None or not resuming.checkpoint_due(step, self.config):
            return
        tensors = checkpoint.training_state(self.model, self.optimizer)
        if self.generator is not None:
            tensors["generator"] = self.generator.get_state()
        for kind, state in self._after_step_state().items():
            tensors |= {f"after_step.{kind}.{name}": tensor for name, tensor in state.items()}
        metadata = {"step": step, "config": asdict(self.config)}
        checkpoint.save(self.path, tensors, metadata)

    def restore(self) -> int:
        """Take up the checkpoint if there is one; the number of steps already done."""
        if self.path is None or not self.path.exists():
            return 0
        stored = checkpoint.load(self.path)
        resuming.require_same_config(self.path, stored.metadata["config"], self.config)
        self.generator_state = stored.tensors.pop("generator", None)
        if (self.generator is None) != (self.generator_state is None):
            raise ValueError(f"{self.path} and this run must both have a generator, or neither")
        self._restore_after_step(stored.tensors)
        checkpoint.restore_training_state(self.model, self.optimizer, stored.tensors)
        return int(stored.metadata["step"])

    def _after_step_state(self) -> dict[str, dict[str, Tensor]]:
        return {} if self.after_step is None else self.after_step.state_dict()

    def _restore_after_step(self, tensors: dict[str, Tensor]) -> None:
        """Take its tensors out of the run's."""
        state: dict[str, dict[str, Tensor]] = {kind: {} for kind in self._after_step_state()}
        for key in [key for key in tensors if key.startswith("after_step.")]:
            _, kind, name = key.split(".", 2)
            if kind not in state:
                raise ValueError(f"{self.path} is of a run with after_step: give it here too")
            state[kind][name] = tensors.pop(key)
        if self.after_step is not None:
            self.after_step.load_state_dict(state)

    def restore_generator(self) -> None:
        """After the passed-over batches were drawn, since drawing them may have advanced it."""
        if self.generator is not None and self.generator_state is not None:
            self.generator.set_state(self.generator_state)
