"""Rank processes for the parallel tests: started once per module and size, ended with it."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from labkit.training.parallel.launch import Ranks

ROOT = str(Path(__file__).parents[4])
Run = Callable[..., list[Any]]


@pytest.fixture(scope="module")
def on_ranks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """`on_ranks(n, function, *arguments)`: results by rank; fails with a child's traceback."""
    worlds: dict[int, Ranks] = {}

    def run(size: int, function: Callable[..., Any], *arguments: Any) -> list[Any]:
        if size not in worlds or not worlds[size].alive:
            folder = tmp_path_factory.mktemp("ranks")
            worlds[size] = Ranks(size, folder, deadline_s=50.0, preload=["pytest"])
        return worlds[size].run(function, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        # Rank functions stand in test modules, which a rank imports as tests.labkit...
        patch.setattr(sys, "path", [ROOT, *sys.path])
        patch.setenv("OMP_NUM_THREADS", "1")
        yield run
    for world in worlds.values():
        world.close()
