"""vLLM as a worker, in its own environment: '{"model": FOLDER, "eager": true or false}'."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
import vllm

from benchmarks.engines.run_loop import run_load, run_together
from benchmarks.engines.worker import serve


class Vllm:
    """vLLM's engine in this process, stepped by us: no pipe lies between it and the clock.

    Args:
        model: A folder.
        eager: Whether its model runs uncompiled.
    """

    def __init__(self, model: str, *, eager: bool) -> None:
        self._llm = vllm.LLM(
            model=model,
            dtype="bfloat16",
            enforce_eager=eager,
            enable_prefix_caching=False,
            max_model_len=1024,
            max_num_seqs=32,
            disable_log_stats=True,
        )
        self._engine = self._llm.llm_engine
        self._added = 0
        self._seen: dict[str, int] = {}

    def ready(self) -> dict[str, Any]:
        return {"version": vllm.__version__, "threads": torch.get_num_threads()}

    def add(self, prompt: list[int], new_tokens: int) -> int:
        key, self._added = self._added, self._added + 1
        params = vllm.SamplingParams(
            temperature=0.0, max_tokens=new_tokens, ignore_eos=True, detokenize=False
        )
        self._engine.add_request(str(key), {"prompt_token_ids": prompt}, params)
        self._seen[str(key)] = 0
        return key

    def step(self) -> Iterator[tuple[int, int]]:
        for output in self._engine.step():
            tokens = output.outputs[0].token_ids
            for token in tokens[self._seen[output.request_id] :]:
                yield int(output.request_id), token
            self._seen[output.request_id] = len(tokens)

    def generate(self, prompts: list[list[int]], new_tokens: int) -> dict[str, Any]:
        return run_together(self, prompts, new_tokens)

    def load(self, requests: list[dict[str, Any]], max_batch: int) -> dict[str, list[float]]:
        return run_load(self, requests)

    def logits(self, texts: list[list[int]], path: str, batch: int) -> None:
        """Save each text's logits (B T, V), those that a prompt's log-probabilities need."""
        rows = [self._prompt_logits(text) for text in texts]
        np.save(path, torch.cat(rows).numpy())

    def _prompt_logits(self, text: list[int]) -> torch.Tensor:
        found: list[torch.Tensor] = []
        model = self._llm.apply_model(lambda model: model)[0]
        compute = model.compute_logits

        def noting(*args: Any, **kwargs: Any) -> torch.Tensor:
            logits = compute(*args, **kwargs)
            found.append(logits.float().clone())
            return logits

        model.compute_logits = noting
        try:
            params = vllm.SamplingParams(temperature=0.0, max_tokens=1, prompt_logprobs=0)
            self._llm.generate({"prompt_token_ids": text}, params, use_tqdm=False)
        finally:
            model.compute_logits = compute
        # The last token's row is asked for by the sampler, before the others by the prompt's.
        last, *others = sorted(found, key=len)
        return torch.cat([*others, last])[: len(text)]


if __name__ == "__main__":
    serve(Vllm)
