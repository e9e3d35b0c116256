"""An engine on DeepSpeed's ZeRO, which is imported when it is asked for: extra `distributed`."""

import importlib
import importlib.util
import logging
import os
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from labkit.data.batch import TokenBatch
from labkit.training.config import TrainConfig
from labkit.training.loop import Loss, build_optimizer
from labkit.training.parallel.collectives import Group
from labkit.training.parallel.engine import LossModule, RowsEngine
from labkit.training.parallel.engines_by_hand import set_lr, stored_buffers

_MOMENTS = ("exp_avg", "exp_avg_sq")
_BUCKET = 25_000_000


def require_deepspeed() -> None:
    """Whether it is installed, without importing it.

    Raises:
        ValueError: it is not.
    """
    if importlib.util.find_spec("deepspeed") is None:
        raise ValueError(
            "DeepSpeed is not installed: pip install 'llm-engineering-lab[distributed]', or use "
            "--strategy zero1, zero2 or zero3, which need no framework"
        )


class DeepSpeedEngine(RowsEngine):
    """`deepspeed.initialize` around model, loss and AdamW, on CPUs over gloo.

    Its own checkpoints are shards of this number of ranks. State goes in and out as whole tensors
    here, by the functions that DeepSpeed offers for looking at them.
    """

    def __init__(
        self, model: nn.Module, config: TrainConfig, loss: Loss, group: Group, *, stage: int
    ) -> None:
        super().__init__(model, config, loss, group)
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
        os.environ["LOCAL_RANK"] = str(group.rank)
        deepspeed: Any = importlib.import_module("deepspeed")
        # Its shared-memory all-reduce would be compiled first, which takes a compiler and minutes.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
        self.access: Any = importlib.import_module("deepspeed.utils")
        self.trainable = {n: p for n, p in model.named_parameters() if p.requires_grad}
        self.stage = stage
        numel = sum(p.numel() for p in self.trainable.values())
        self.engine = deepspeed.initialize(
            model=LossModule(model, loss),
            optimizer=build_optimizer(model, config),
            config=_settings(config, group.size, stage, min(numel, _BUCKET)),
            dist_init_required=False,
        )[0]

    def backward(self, batch: TokenBatch, scale: float, *, last: bool) -> Tensor:
        """DeepSpeed counts the passes itself: before the last, its step only does that."""
        with self.autocast():
            loss_sum: Tensor = self.engine(batch)
        self.engine.backward(scale * loss_sum, scale_wrt_gas=False)
        if not last:
            self.engine.step()
        return loss_sum.detach()

    def update(self, lr: float) -> float:
        """It clips and steps in one call."""
        set_lr(self.engine.optimizer, lr)
        self.engine.step()
        norm = float(self.engine.get_global_grad_norm())
        self.clip_factor(norm)
        return norm

    def state(self) -> dict[str, Tensor]:
        """Every rank calls for each tensor in turn."""
        state = {f"model.{name}": buffer for name, buffer in stored_buffers(self.model).items()}
        self._link_moments()
        count = next(iter(self.engine.optimizer.optimizer.state.values()))["step"]
        for name, parameter in self.trainable.items():
            value = self.access.safe_get_full_fp32_param(parameter)
            state[f"model.{name}"] = value.clone()
            for slot in _MOMENTS:
                value = self.access.safe_get_full_optimizer_state(parameter, slot)
                state[f"optimizer.{name}.{slot}"] = value.clone()
            state[f"optimizer.{name}.step"] = count.clone()
        return state

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """The optimizer's state; the weights were in the model before DeepSpeed cut it."""
        count = next(value for key, value in tensors.items() if key.endswith(".step"))
        optimizer = self.engine.optimizer
        for flat in self._flat_partitions():
            moments = {slot: torch.zeros_like(flat) for slot in _MOMENTS}
            optimizer.optimizer.state[flat] = moments | {"step": count.clone()}
        self._link_moments()
        for name, parameter in self.trainable.items():
            for slot in _MOMENTS:
                self._put(parameter, slot, tensors[f"optimizer.{name}.{slot}"])

    def _flat_partitions(self) -> Iterator[Tensor]:
        name = (
            "fp32_partitioned_groups_flat" if self.stage == 3 else "single_partition_of_fp32_groups"
        )
        yield from getattr(self.engine.optimizer, name)

    def _link_moments(self) -> None:
        """DeepSpeed 0.19 links moments to parameters after the first group's first step only."""
        if self.stage < 3:
            self.engine.optimizer._hp_optimizer_states_linked = False
            self.engine.optimizer._lazy_init_hp_params_optimizer_state()

    def _put(self, parameter: Any, slot: str, value: Tensor) -> None:
        if self.stage < 3:
            self.access.safe_set_full_optimizer_state(parameter, value, slot)
            return
        part = parameter.ds_tensor.numel()
        padded = value.new_zeros(part * self.group.size)
        padded[: value.numel()] = value.flatten()
        mine = padded.chunk(self.group.size)[self.group.index]
        self.access.safe_set_local_optimizer_state(parameter, mine, slot)


def _settings(config: TrainConfig, n: int, stage: int, bucket: int) -> dict[str, object]:
    """float32 weights; where the loop would autocast, so does the engine around it."""
    return {
        "train_batch_size": n * config.accumulation,
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": config.accumulation,
        "gradient_clipping": 0.0 if config.clip_norm is None else config.clip_norm,
        "zero_allow_untested_optimizer": True,
        "steps_per_print": 2**31,
        "zero_optimization": {
            "stage": stage,
            "reduce_bucket_size": bucket,
            "stage3_param_persistence_threshold": 0,
            "stage3_prefetch_bucket_size": 0,
        },
    }
