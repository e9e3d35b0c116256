"""Picks data, tensor and pipeline parallelism, micro-batch, recomputation and ZeRO stage.

Every layout that this package can run is priced by the memory model and by a time model; the
fastest that fits wins. The time model knows floating-point work, the pipeline's bubble and bytes
sent; it overlaps nothing, so it orders layouts better than it predicts seconds.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from labkit.model.config import ModelConfig
from labkit.training.parallel import collectives
from labkit.training.parallel.memory_model import (
    RECOMPUTES,
    Layout,
    check_model,
    peak_bytes,
    stage_parameters,
)
from labkit.training.parallel.schedules import bubble_formula
from labkit.training.parallel.tensor_parallel import stream_bytes
from labkit.training.parallel.zero import zero_traffic


@dataclass(frozen=True, kw_only=True, slots=True)
class Hardware:
    """What the ranks are.

    Attributes:
        ranks: processes, one accelerator each.
        ranks_per_node: that share the fast links.
        memory_bytes: of one.
        flops: that one really reaches, per second.
        node_bandwidth: bytes per second that a rank sends inside its node.
        network_bandwidth: the same between nodes.
    """

    ranks: int
    ranks_per_node: int
    memory_bytes: float
    flops: float
    node_bandwidth: float
    network_bandwidth: float

    def bandwidth(self, span: int) -> float:
        """Of a group whose members lie within `span` neighbouring ranks."""
        return self.node_bandwidth if span <= self.ranks_per_node else self.network_bandwidth


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """A layout and its price."""

    layout: Layout
    peak_bytes: int
    compute_s: float
    bubble_s: float
    traffic_s: float

    @property
    def step_s(self) -> float:
        """Of one optimizer step."""
        return self.compute_s + self.bubble_s + self.traffic_s


def plan(
    config: ModelConfig, hardware: Hardware, *, batch: int, T: int, item_bytes: int = 2
) -> Plan:
    """The fastest layout that fits; of equally fast ones the smallest.

    Args:
        config: a dense pre-norm model.
        hardware: all of whose ranks are used.
        batch: sequences in one step.
        T: tokens of one.
        item_bytes: of a parameter in the model's dtype.

    Raises:
        ValueError: nothing can be spread so, or nothing fits; says what the smallest needs.
    """
    plans = [
        price(config, layout, hardware, T, item_bytes=item_bytes)
        for layout in layouts(config, hardware, batch)
    ]
    if not plans:
        raise ValueError(
            f"no layout of {hardware.ranks} ranks divides batch={batch} and the model's heads"
        )
    fitting = [p for p in plans if p.peak_bytes <= hardware.memory_bytes]
    if not fitting:
        least = min(plans, key=lambda p: p.peak_bytes)
        raise ValueError(
            f"nothing fits {hardware.memory_bytes:.3g} bytes a rank: the smallest layout "
            f"needs {least.peak_bytes:.3g} ({least.layout})"
        )
    return min(fitting, key=lambda p: (p.step_s, p.peak_bytes))


def layouts(config: ModelConfig, hardware: Hardware, batch: int) -> Iterator[Layout]:
    """Every layout of all ranks for the batch; tensor parallelism stays inside a node."""
    n = hardware.ranks
    for t in _divisors(n):
        for p in _divisors(n // t):
            d = n // (t * p)
            if t > hardware.ranks_per_node or batch % d or not _possible(config, t, p):
                continue
            for microbatch in _divisors(batch // d):
                for recompute in RECOMPUTES:
                    for stage in (0,) if d == 1 else (0, 1) if p > 1 else (0, 1, 2, 3):
                        yield Layout(
                            data=d,
                            tensor=t,
                            pipeline=p,
                            microbatch=microbatch,
                            microbatches=batch // d // microbatch,
                            recompute=recompute,
                            zero_stage=stage,
                        )


def price(
    config: ModelConfig, layout: Layout, hardware: Hardware, T: int, *, item_bytes: int = 2
) -> Plan:
    """A layout's memory and time.

    Compute is 6 FLOPs for each parameter and token, 8 with full recomputation, and attention's
    12 L H K T for each token (16), of which causality needs half.
    """
    tokens = layout.batch * T
    attention = 6 * config.num_layers * config.num_heads * config.head_width * T
    again = 4 / 3 if layout.recompute == "full" else 1.0
    work = again * tokens * (6 * config.num_parameters + attention)
    compute = work / hardware.flops / layout.ranks
    bubble = bubble_formula(layout.pipeline, layout.microbatches)
    return Plan(
        layout=layout,
        peak_bytes=peak_bytes(config, layout, T, item_bytes=item_bytes),
        compute_s=compute,
        bubble_s=compute * bubble / (1 - bubble),
        traffic_s=_traffic_s(config, layout, hardware, T, item_bytes),
    )


def _traffic_s(
    config: ModelConfig, layout: Layout, hardware: Hardware, T: int, item_bytes: int
) -> float:
    """Tensor ranks are neighbours, then pipeline ranks, then replicas."""
    t, p, d, m = layout.tensor, layout.pipeline, layout.data, layout.microbatches
    B, D = layout.microbatch, config.width
    layers = -(-config.num_layers // p)
    tensor = m * stream_bytes(B, T, D, layers, t, item_bytes)
    if layout.recompute == "full":
        tensor += m * 2 * layers * collectives.all_reduce_bytes(B * T * D * item_bytes, t)
    pipeline = 2 * m * B * T * D * item_bytes if p > 1 else 0
    size = item_bytes * stage_parameters(config, layout, 0)
    # Stage 2 reduces and stage 3 also gathers for every micro-batch.
    halves = zero_traffic(size, d, 0) / 2
    passes = {0: 2, 1: 2, 2: m + 1, 3: 3 * m}[layout.zero_stage]
    return (
        tensor / hardware.bandwidth(t)
        + pipeline / hardware.bandwidth(t * p)
        + passes * halves / hardware.bandwidth(t * p * d)
    )


def _possible(config: ModelConfig, t: int, p: int) -> bool:
    try:
        check_model(config, Layout(tensor=t, pipeline=p))
    except ValueError:
        return False
    return True


def _divisors(n: int) -> list[int]:
    return [k for k in range(1, n + 1) if n % k == 0]
