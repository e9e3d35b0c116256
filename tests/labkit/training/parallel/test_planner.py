"""The planner: the best by brute force, what each scarcity makes it choose, what it refuses."""

import dataclasses

import pytest

from labkit.model.config import ModelConfig
from labkit.training.parallel.planner import Hardware, layouts, plan, price

CONFIG = ModelConfig(
    vocab_size=32_000,
    width=4096,
    num_layers=24,
    num_heads=32,
    num_kv_heads=8,
    head_width=128,
    ffn_width=14_336,
    tie_embeddings=False,
)
NODE = Hardware(
    ranks=8,
    ranks_per_node=8,
    memory_bytes=80e9,
    flops=400e12,
    node_bandwidth=300e9,
    network_bandwidth=25e9,
)
BATCH, T = 24, 1500


def test_layouts_use_all_ranks_and_the_batch_once_each() -> None:
    found = list(layouts(CONFIG, NODE, BATCH))
    assert len(set(found)) == len(found) > 50
    assert {layout.ranks for layout in found} == {8}
    assert {layout.batch for layout in found} == {BATCH}


def test_the_plan_fits_and_no_fitting_layout_is_faster() -> None:
    best = plan(CONFIG, NODE, batch=BATCH, T=T)
    assert best.peak_bytes <= NODE.memory_bytes
    for layout in layouts(CONFIG, NODE, BATCH):
        other = price(CONFIG, layout, NODE, T)
        assert other.peak_bytes > NODE.memory_bytes or other.step_s >= best.step_s


def test_plenty_of_memory_means_plain_data_parallelism() -> None:
    rich = dataclasses.replace(NODE, memory_bytes=1e13)
    layout = plan(CONFIG, rich, batch=512, T=T).layout
    assert (layout.tensor, layout.pipeline, layout.recompute) == (1, 1, "none")
    assert layout.data == 8


def test_scarce_memory_costs_time() -> None:
    steps = []
    for memory in (1e13, 40e9, 14e9):
        hardware = dataclasses.replace(NODE, memory_bytes=memory)
        steps.append(plan(CONFIG, hardware, batch=BATCH, T=T).step_s)
    assert steps == sorted(steps)
    assert steps[0] < steps[-1]


def test_tensor_parallelism_stays_inside_a_node() -> None:
    pairs = dataclasses.replace(NODE, ranks_per_node=2)
    assert {layout.tensor for layout in layouts(CONFIG, pairs, BATCH)} == {1, 2}


def test_the_price_of_one_rank_is_work_over_speed() -> None:
    one = dataclasses.replace(NODE, ranks=1, memory_bytes=1e13)
    best = plan(CONFIG, one, batch=BATCH, T=T)
    tokens, attention = BATCH * T, 6 * 24 * 32 * 128 * T
    work = tokens * (6 * CONFIG.num_parameters + attention)
    assert best.step_s == pytest.approx(work / 400e12)
    assert best.bubble_s == best.traffic_s == 0


def test_refusals() -> None:
    with pytest.raises(ValueError, match="nothing fits 1e\\+09 bytes a rank: the smallest"):
        plan(CONFIG, dataclasses.replace(NODE, memory_bytes=1e9), batch=BATCH, T=T)
    lonely = dataclasses.replace(NODE, ranks=29, ranks_per_node=1)
    with pytest.raises(ValueError, match="no layout of 29 ranks divides batch=24"):
        plan(CONFIG, lonely, batch=BATCH, T=T)
