"""An engine on this package's tensor parallelism: all rows on every rank, matrices split."""

from collections.abc import Sequence

import torch
from torch import Tensor

from labkit.data.batch import TokenBatch
from labkit.model.minillm import MiniLLM
from labkit.training.config import TrainConfig
from labkit.training.forward import batch_logits, causal_lm_loss
from labkit.training.loop import Loss, build_optimizer
from labkit.training.parallel import collectives, tensor_parallel
from labkit.training.parallel.collectives import Group
from labkit.training.parallel.engine import Engine
from labkit.training.parallel.engines_by_hand import set_lr
from labkit.training.parallel.vocabulary import vocabulary_cross_entropy


class TensorEngine(Engine):
    """`tensor_parallel.shard`, with the cross-entropy of logits that nobody gathers."""

    def __init__(self, model: MiniLLM, config: TrainConfig, loss: Loss, group: Group) -> None:
        super().__init__(model, config, loss, group)
        require_causal(loss)
        self.rows = Group(ranks=(group.rank,), rank=group.rank)
        self.shapes = {name: p.shape for name, p in model.named_parameters()}
        self.vocab_size = model.config.vocab_size
        tensor_parallel.shard(model, group)
        self.named = {_whole_name(name): p for name, p in model.named_parameters()}
        self.optimizer = build_optimizer(model, config)

    def accumulate(self, batches: Sequence[TokenBatch], tokens: int) -> float:
        """The same sum on every rank."""
        total = 0.0
        for batch in batches:
            with self.autocast():
                logits = batch_logits(self.model, batch)
            loss_sum, _ = vocabulary_cross_entropy(
                logits, batch.labels, self.vocab_size, self.group
            )
            (loss_sum / tokens).backward()
            total += loss_sum.item()
        return total

    def update(self, lr: float) -> float:
        """Norms, which every rank holds, count once in the global norm."""
        norm = self._norm()
        factor = self.clip_factor(norm)
        for parameter in self.named.values():
            if parameter.grad is not None:
                parameter.grad.mul_(factor)
        set_lr(self.optimizer, lr)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return norm

    def state(self) -> dict[str, Tensor]:
        """Parts of every tensor put together again."""
        state = {}
        for name, parameter in self.named.items():
            state[f"model.{name}"] = self._joined(name, parameter.detach())
            for slot, value in self.optimizer.state.get(parameter, {}).items():
                state[f"optimizer.{name}.{slot}"] = self._joined(name, value)
        return state

    @torch.no_grad()
    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Each tensor cut as its parameter."""
        for name, parameter in self.named.items():
            parameter.copy_(self._part(name, tensors[f"model.{name}"]))
            prefix = f"optimizer.{name}."
            self.optimizer.state[parameter] = {
                key.removeprefix(prefix): self._part(name, value)
                for key, value in tensors.items()
                if key.startswith(prefix)
            }

    def _norm(self) -> float:
        split = replicated = torch.zeros(())
        for name, parameter in self.named.items():
            if parameter.grad is not None:
                square = parameter.grad.float().square().sum()
                if self._axis(name) is None:
                    replicated = replicated + square
                else:
                    split = split + square
        total = collectives.all_reduce(split.reshape(1).clone(), self.group)[0] + replicated
        return total.sqrt().item()

    def _axis(self, name: str) -> int | None:
        """The axis along which a parameter is split; None where every rank has it whole."""
        whole, part = self.shapes[name], self.named[name].shape
        return next((i for i, (w, p) in enumerate(zip(whole, part, strict=True)) if w != p), None)

    def _joined(self, name: str, part: Tensor) -> Tensor:
        axis = self._axis(name)
        if axis is None or not part.ndim:
            return part.clone()
        pieces = list(part.new_empty(self.shapes[name]).tensor_split(self.group.size, axis))
        pieces = [piece.contiguous() for piece in pieces]
        pieces[self.group.index].copy_(part)
        collectives.all_gather(pieces, self.group)
        return torch.cat(pieces, axis)

    def _part(self, name: str, whole: Tensor) -> Tensor:
        axis = self._axis(name)
        if axis is None or not whole.ndim:
            return whole.clone()
        return whole.tensor_split(self.group.size, axis)[self.group.index].clone(
            memory_format=torch.contiguous_format
        )


def require_causal(loss: Loss) -> None:
    """Model parallelism computes the loss itself, from logits that are spread.

    Raises:
        ValueError: another loss is asked for.
    """
    if loss is not causal_lm_loss:
        raise ValueError("model parallelism trains on causal_lm_loss; other losses need data ranks")


def _whole_name(name: str) -> str:
    """Without the module that sharding put around each norm."""
    return name.replace(".norm.weight", ".weight") if name.count("norm") > 1 else name
