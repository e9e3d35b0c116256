"""Compiled blocks, in a process of their own: the shape checks of tests cannot be compiled."""

import json
import subprocess
import sys

import pytest

from labkit.inference.engine_config import EngineConfig

SCRIPT = """
import json
from torch._dynamo.utils import counters
from labkit.inference.engine import Engine
from labkit.inference.engine_config import EngineConfig
from labkit.inference.sampling import SamplingConfig
from labkit.model import zoo

mini = zoo.load("mini", dtype="float32", device="cpu")
prompts = ["In the evening", "Quinn was born in", "The"]
made = []
for compiled in (False, True):
    engine = Engine(mini.model, mini.tokenizer, EngineConfig(compiled=compiled))
    made.append(engine.generate(prompts, SamplingConfig(max_new_tokens=24, logprobs=0)))
ids = [[text.ids for text in texts] for texts in made]
logprobs = [[choice.logprob for text in texts for choice in text.logprobs] for texts in made]
print(json.dumps([ids, logprobs, counters["stats"]["unique_graphs"]]))
"""


@pytest.mark.slow
def test_they_give_the_same_texts_from_one_set_of_graphs_for_all_layers() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    ids, logprobs, graphs = json.loads(done.stdout.splitlines()[-1])
    assert ids[0] == ids[1]
    assert logprobs[0] == pytest.approx(logprobs[1], abs=1e-4)
    # Two a block, before and after attention, each for one token and for more: not two a layer.
    assert graphs == 4


@pytest.mark.parametrize("changes", [{"weights": "int8"}, {"max_adapters": 2}])
def test_what_is_not_compiled_is_refused(changes: dict) -> None:
    with pytest.raises(ValueError, match="compiled=True with"):
        EngineConfig(compiled=True, **changes)
