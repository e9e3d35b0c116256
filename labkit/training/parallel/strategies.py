"""The ways to spread a training run, by name, and what each cannot do."""

from collections.abc import Callable
from functools import partial

from torch import nn

from labkit.model.minillm import MiniLLM
from labkit.training.config import TrainConfig
from labkit.training.loop import Loss
from labkit.training.parallel.collectives import Group
from labkit.training.parallel.engine import Engine
from labkit.training.parallel.engine_deepspeed import DeepSpeedEngine, require_deepspeed
from labkit.training.parallel.engine_pipeline import PipelineEngine
from labkit.training.parallel.engine_tensor import TensorEngine
from labkit.training.parallel.engines_by_hand import DataParallelEngine, ZeroEngine
from labkit.training.parallel.engines_torch import FullyShardedEngine, TorchDataParallelEngine
from labkit.training.parallel.memory_model import Layout, check_model

STRATEGIES: dict[str, Callable[..., Engine]] = {
    "ddp": DataParallelEngine,
    "zero1": partial(ZeroEngine, stage=1),
    "zero2": partial(ZeroEngine, stage=2),
    "zero3": partial(ZeroEngine, stage=3),
    "tp": TensorEngine,
    "pp": PipelineEngine,
    "torch-ddp": TorchDataParallelEngine,
    "fsdp2": FullyShardedEngine,
    "deepspeed-zero1": partial(DeepSpeedEngine, stage=1),
    "deepspeed-zero2": partial(DeepSpeedEngine, stage=2),
    "deepspeed-zero3": partial(DeepSpeedEngine, stage=3),
}
MODEL_PARALLEL = ("tp", "pp")


def check(strategy: str, nproc: int, model: nn.Module) -> None:
    """Whether the model can be spread so.

    Raises:
        ValueError: it cannot, with the way out.
    """
    require_known(strategy, nproc)
    if strategy in MODEL_PARALLEL:
        _check_model_parallel(strategy, nproc, model)
    if any(parameter.is_cuda for parameter in model.parameters()):
        raise ValueError(f"--strategy {strategy} runs on CPU processes: --device cpu")


def require_known(strategy: str, nproc: int) -> None:
    """What can be said without a model.

    Raises:
        ValueError: there is no such strategy, no rank, or DeepSpeed is missing.
    """
    if strategy not in STRATEGIES:
        raise ValueError(f"strategy {strategy!r} is unknown: use one of {', '.join(STRATEGIES)}")
    if nproc < 1:
        raise ValueError(f"nproc={nproc} must be at least 1")
    if strategy.startswith("deepspeed"):
        require_deepspeed()


def build(strategy: str, model: nn.Module, config: TrainConfig, loss: Loss, group: Group) -> Engine:
    """This rank's engine; a collective call, with the same model on every rank."""
    return STRATEGIES[strategy](model, config, loss, group)


def _check_model_parallel(strategy: str, nproc: int, model: nn.Module) -> None:
    if not isinstance(model, MiniLLM) or not all(p.requires_grad for p in model.parameters()):
        raise ValueError(
            f"strategy {strategy!r} splits a MiniLLM that is trained whole: use --method full, or "
            "ddp, zero1 to zero3, fsdp2 for adapters"
        )
    layout = Layout(tensor=nproc) if strategy == "tp" else Layout(pipeline=nproc)
    check_model(model.config, layout)
    if strategy == "pp" and model.config.sliding_window is not None:
        raise ValueError("strategy 'pp' passes no window's mask on: use another strategy")
