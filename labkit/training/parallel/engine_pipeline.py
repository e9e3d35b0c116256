"""An engine on this package's pipeline: the step's batches are its micro-batches, under 1F1B."""

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from labkit.data.batch import TokenBatch
from labkit.model.layers import rope_table
from labkit.model.minillm import MiniLLM, attention_mask, default_positions
from labkit.objectives.language_modelling import cross_entropy
from labkit.training.config import TrainConfig
from labkit.training.loop import Loss, build_optimizer
from labkit.training.parallel import collectives, pipeline, schedules
from labkit.training.parallel.collectives import Group
from labkit.training.parallel.engine import Engine
from labkit.training.parallel.engine_tensor import require_causal
from labkit.training.parallel.engines_by_hand import set_lr


class PackedSegment(pipeline.Segment):
    """A stage that knows the rows it works on, so that documents packed into one stay apart."""

    rows: TokenBatch
    dtype = torch.float32

    def forward(self, x: Tensor) -> Tensor:
        rows = self.rows
        positions = rows.positions
        if positions is None:
            positions = default_positions(rows.ids, 0, None)
        mask = attention_mask(rows.ids, 0, None, rows.document_ids)
        with torch.autocast("cpu", torch.bfloat16, enabled=self.dtype == torch.bfloat16):
            if self.embed_tokens is not None:
                x = self.embed_tokens(x)
            cos, sin = rope_table(positions, self.config.head_width, self.config.rope_theta)
            rope = (cos.to(x.dtype), sin.to(x.dtype))
            for block in self.layers:
                x = block(x, rope, mask)
            if self.norm is not None and self.lm_head is not None:
                x = self.lm_head(self.norm(x))
        return x


class PackedPipeline(pipeline.Pipeline):
    """Tells its segment which rows come."""

    def __init__(self, segment: PackedSegment, group: Group) -> None:
        super().__init__([segment], group)
        self.segment = segment
        self.batches: Sequence[TokenBatch] = []

    def _forward(self, action: schedules.Action, ids: Tensor, loss: pipeline.Loss) -> None:
        self.segment.rows = self.batches[action.microbatch]
        super()._forward(action, ids, loss)


class PipelineEngine(Engine):
    """One stage of consecutive layers a rank; `accumulation` micro-batches fill the pipeline."""

    def __init__(self, model: MiniLLM, config: TrainConfig, loss: Loss, group: Group) -> None:
        names = {p: name for name, p in model.named_parameters()}
        segment = PackedSegment(model, group.index, group.size)
        super().__init__(segment, config, loss, group)
        require_causal(loss)
        segment.dtype = getattr(torch, config.dtype)
        self.rows = Group(ranks=(group.rank,), rank=group.rank)
        self.pipeline = PackedPipeline(segment, group)
        self.named = {names[p]: p for p in segment.parameters()}
        self.optimizer = build_optimizer(segment, config)

    def accumulate(self, batches: Sequence[TokenBatch], tokens: int) -> float:
        """The last stage alone knows the loss, and tells it."""
        actions = schedules.one_forward_one_backward(self.group.size, len(batches))
        self.pipeline.batches = batches

        def part(logits: Tensor, _: Tensor) -> Tensor:
            labels = self.pipeline.segment.rows.labels
            return cross_entropy(logits, labels)[0] / tokens

        losses = self.pipeline.run(
            actions[self.group.index], [batch.ids for batch in batches], part
        )
        pipeline.sum_tied_gradients([self.pipeline.segment], self.group)
        mean = torch.tensor([sum(loss.item() for loss in losses)], dtype=torch.float64)
        return tokens * collectives.all_reduce(mean, self.group).item()

    def update(self, lr: float) -> float:
        """Each stage moves its own layers, clipped by the norm over all stages."""
        gradients = {n: p.grad for n, p in self.named.items() if p.grad is not None}
        squares = [g.float().square().sum() for n, g in gradients.items() if not self._twin(n)]
        total = torch.stack(squares).sum() if squares else torch.zeros(())
        norm = collectives.all_reduce(total.reshape(1), self.group).sqrt().item()
        factor = self.clip_factor(norm)
        for gradient in gradients.values():
            gradient.mul_(factor)
        set_lr(self.optimizer, lr)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return norm

    def state(self) -> dict[str, Tensor]:
        """All stages' tensors, sent to rank 0."""
        mine: dict[str, Tensor] = {}
        for name, parameter in self.named.items():
            if not self._twin(name):
                mine[f"model.{name}"] = parameter.detach()
                for slot, value in self.optimizer.state.get(parameter, {}).items():
                    mine[f"optimizer.{name}.{slot}"] = value
        gathered: list[dict[str, Tensor]] = [{} for _ in self.group.ranks]
        dist.gather_object(mine, gathered if self.group.rank == 0 else None)
        return {name: tensor for stage in gathered for name, tensor in stage.items()}

    @torch.no_grad()
    def restore(self, tensors: dict[str, Tensor]) -> None:
        """This stage's tensors."""
        for name, parameter in self.named.items():
            parameter.copy_(tensors[f"model.{name}"])
            prefix = f"optimizer.{name}."
            self.optimizer.state[parameter] = {
                key.removeprefix(prefix): value.clone()
                for key, value in tensors.items()
                if key.startswith(prefix)
            }

    def _twin(self, name: str) -> bool:
        """Whether this is the last stage's copy of an embedding that the first holds, too."""
        return self.group.index > 0 and name == "model.embed_tokens.weight"
