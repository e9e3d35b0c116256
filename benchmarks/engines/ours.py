"""labkit's engine as a worker: python -m benchmarks.engines.ours '{"model": ..., ...}'."""

from collections.abc import Iterator
from typing import Any

import torch

from benchmarks.engines.run_loop import run_load, run_padded, run_together
from benchmarks.engines.teacher import save_logits
from benchmarks.engines.worker import serve
from labkit.inference.decoding import BatchDecoder
from labkit.inference.engine import Engine
from labkit.inference.engine_config import EngineConfig
from labkit.inference.sampling import SamplingConfig
from labkit.model import zoo


class Ours:
    """The engine, its static-batch rival on the same weights, and its logits in either mode.

    Args:
        model: Of `zoo.load`.
        weights: Of `EngineConfig`.
        dtype: Of the model that `weights="model"` and `padded_decoder` run.
    """

    def __init__(self, model: str, weights: str, dtype: str = "float32") -> None:
        loaded = zoo.load(model, dtype=dtype, device="cpu")
        self._model = loaded.model
        config = EngineConfig(weights=weights, prefix_cache=False)
        self._engine = Engine(loaded.model, loaded.tokenizer, config)

    def add(self, prompt: list[int], new_tokens: int) -> int:
        config = SamplingConfig(max_new_tokens=new_tokens, ignore_eos=True)
        return self._engine.add_request(prompt, config)

    def step(self) -> Iterator[tuple[int, int]]:
        return ((output.key, output.choice.token) for output in self._engine.step())

    def ready(self) -> dict[str, Any]:
        executor = self._engine.executor
        return {"step_bytes": getattr(executor, "nbytes", None), "version": torch.__version__}

    def generate(self, prompts: list[list[int]], new_tokens: int) -> dict[str, Any]:
        return run_together(self, prompts, new_tokens)

    def load(self, requests: list[dict[str, Any]], max_batch: int) -> dict[str, list[float]]:
        return run_load(self, requests)

    def padded_load(self, requests: list[dict[str, Any]], max_batch: int) -> dict[str, list[float]]:
        """The engine itself in static batches: all rows as long as the longest, to the end."""

        def generate(prompts: list[list[int]], new_tokens: int) -> None:
            longest = max(map(len, prompts))
            rows = [[prompt[0]] * (longest - len(prompt)) + prompt for prompt in prompts]
            run_together(self, rows, new_tokens)

        return run_padded(generate, requests, max_batch)

    def padded_decoder(
        self, requests: list[dict[str, Any]], max_batch: int
    ) -> dict[str, list[float]]:
        """`BatchDecoder` in static batches, on the model's own modules."""

        def generate(prompts: list[list[int]], new_tokens: int) -> None:
            decoder = BatchDecoder(self._model, prompts, max_steps=new_tokens)
            tokens = decoder.prefill().argmax(-1)
            for _ in range(new_tokens - 1):
                tokens = decoder.step(tokens).argmax(-1)

        return run_padded(generate, requests, max_batch)

    def logits(self, texts: list[list[int]], path: str, batch: int) -> None:
        save_logits(self._engine.executor, texts, path, batch)


if __name__ == "__main__":
    serve(Ours)
