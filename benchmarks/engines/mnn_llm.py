"""MNN-LLM as a worker, in its own environment: '{"model": FOLDER, "threads": 2}'."""

import sys
import time
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.engines.worker import serve


class Mnn:
    """MNN's forward call, one text at a time: its Python interface has no batches.

    Args:
        model: A folder that `export` wrote.
        threads: Of prefill and decoding.
    """

    def __init__(self, model: str, threads: int) -> None:
        llm = import_module("MNN.llm")  # the attribute of MNN is another module
        self._model = llm.create(str(Path(model) / "config.json"))
        # "low" memory multiplies 8-bit activations with the weights as they are stored.
        self._model.set_config({"thread_num": threads, "precision": "normal", "memory": "low"})
        self._model.load()

    def ready(self) -> dict[str, Any]:
        return {"version": version("MNN")}

    def generate(self, prompts: list[list[int]], new_tokens: int) -> dict[str, Any]:
        [tokens] = prompts
        self._model.reset()
        out: list[int] = []
        began, first_s = time.perf_counter(), 0.0
        while len(out) < new_tokens:
            out.append(int(self._next_logits([out[-1]] if out else tokens).argmax()))
            first_s = first_s or time.perf_counter() - began
        return {
            "first_s": first_s,
            "total_s": time.perf_counter() - began,
            "decode_tokens": new_tokens - 1,
            "tokens": [out],
        }

    def logits(self, texts: list[list[int]], path: str, batch: int) -> None:
        """Save each text's logits (B T, V), a token a step: only the last token's are given."""
        rows = []
        for text in texts:
            self._model.reset()
            rows += [self._next_logits([token]) for token in text]
        np.save(path, np.stack(rows))

    def _next_logits(self, tokens: list[int]) -> np.ndarray:
        return np.array(self._model.forward(tokens).read(), np.float32).reshape(-1)


def export(source: str, target: str, bits: str) -> None:
    """Write MNN's files of a Hugging Face folder: blocks of 32 weights, a scale and an offset each.

    The matrix of the embedding is the output's too, and keeps 8 bits.
    """
    from llmexport import main

    options = {"path": source, "export": "mnn", "dst_path": target, "quant_bit": bits}
    options |= {"quant_block": "32", "lm_quant_bit": "8"}
    sys.argv = ["llmexport", *(word for k, v in options.items() for word in (f"--{k}", v))]
    main()


if __name__ == "__main__":
    if sys.argv[1] == "export":
        export(*sys.argv[2:5])
    else:
        serve(Mnn)
