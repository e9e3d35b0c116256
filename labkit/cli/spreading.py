"""--strategy and --nproc: one command that trains in several processes."""

import argparse
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from labkit.training.loop import StepRecord

# As in training.parallel.strategies, which would import PyTorch for --help.
BY_HAND = ("ddp", "zero1", "zero2", "zero3", "tp", "pp")
FRAMEWORKS = ("torch-ddp", "fsdp2", "deepspeed-zero1", "deepspeed-zero2", "deepspeed-zero3")
STRATEGIES = ("none", *BY_HAND, *FRAMEWORKS)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare both."""
    text = f"how processes share the work: none (default); {', '.join(BY_HAND)} by hand; "
    parser.add_argument("--strategy", help=text + f"{', '.join(FRAMEWORKS)} by a framework")
    parser.add_argument("--nproc", type=int, help="processes of one thread each (default 1)")


def check(strategy: str, nproc: int, device: str) -> None:
    """What contradicts itself without a look at the model.

    Raises:
        ValueError: the strategy is unknown, or does not go with nproc or device.
    """
    if strategy not in STRATEGIES:
        known = ", ".join(map(repr, STRATEGIES))
        raise ValueError(f"strategy={strategy!r} is unknown: use one of {known}")
    if strategy == "none" and nproc != 1:
        raise ValueError(f"nproc={nproc} needs a strategy that says how they share the work")
    if strategy != "none" and nproc < 2:
        raise ValueError(f"strategy={strategy!r} needs nproc of at least 2, not {nproc}")
    if strategy != "none" and device not in ("auto", "cpu"):
        raise ValueError(f"strategy={strategy!r} runs CPU processes: device={device!r} must be cpu")


def trainer(strategy: str, nproc: int) -> "Callable[..., Iterator[StepRecord]]":
    """`loop.train`, or the same spread over processes.

    Raises:
        ValueError: DeepSpeed is asked for and not installed.
    """
    from labkit.training import loop

    if strategy == "none":
        return loop.train
    from labkit.training.parallel import distributed, strategies

    strategies.require_known(strategy, nproc)
    return partial(distributed.train, strategy=strategy, nproc=nproc)
