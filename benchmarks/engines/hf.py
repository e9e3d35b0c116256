"""transformers as a worker: python -m benchmarks.engines.hf '{"model": FOLDER, "dtype": ...}'."""

import time
from typing import Any

import numpy as np
import torch
import transformers

from benchmarks.engines.run_loop import run_padded
from benchmarks.engines.worker import serve


class Transformers:
    """`generate`, greedy, with its KV cache; static batches are padded on the left.

    Args:
        model: A folder.
        dtype: Of weights and activations.
    """

    def __init__(self, model: str, dtype: str) -> None:
        load = transformers.AutoModelForCausalLM.from_pretrained
        self._model = load(model, dtype=getattr(torch, dtype)).eval()

    def ready(self) -> dict[str, Any]:
        return {"version": transformers.__version__}

    @torch.inference_mode()
    def generate(self, prompts: list[list[int]], new_tokens: int) -> dict[str, Any]:
        longest = max(map(len, prompts))
        ids = torch.tensor([[0] * (longest - len(prompt)) + prompt for prompt in prompts])
        real = torch.arange(longest) >= longest - torch.tensor([[len(p)] for p in prompts])
        moments: list[float] = []

        def note(ids: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
            moments.append(time.perf_counter())
            return logits

        began = time.perf_counter()
        out = self._model.generate(
            ids,
            attention_mask=real.long(),
            do_sample=False,
            min_new_tokens=new_tokens,
            max_new_tokens=new_tokens,
            eos_token_id=None,
            pad_token_id=0,
            logits_processor=[note],
        )
        return {
            "first_s": moments[0] - began,
            "total_s": time.perf_counter() - began,
            "decode_tokens": len(prompts) * (new_tokens - 1),
            "tokens": out[:, longest:].tolist(),
        }

    def load(self, requests: list[dict[str, Any]], max_batch: int) -> dict[str, list[float]]:
        return run_padded(self.generate, requests, max_batch)

    @torch.inference_mode()
    def logits(self, texts: list[list[int]], path: str, batch: int) -> None:
        """Save each text's logits (B T, V), in one pass over all texts, whatever `batch` says."""
        np.save(path, self._model(torch.tensor(texts)).logits.flatten(0, 1).float().numpy())


if __name__ == "__main__":
    serve(Transformers)
