"""llama.cpp as a worker, in its own environment: '{"model": GGUF, "threads": 2}'."""

import ctypes
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import llama_cpp
import numpy as np

from benchmarks.engines.run_loop import run_together
from benchmarks.engines.worker import serve

CONTEXT, BATCH, MOST_SEQUENCES = 32 * 512, 512, 32


@dataclass(slots=True)
class _Row:
    """A request: its tokens so far, how many of them the cache has, how many it may have."""

    tokens: list[int]
    most: int
    sequence: int
    computed: int = 0
    last: int = field(default=-1)  # its place in the step's batch, if its next token is due


class LlamaCpp:
    """llama.cpp's own decode call, one batch a step over up to 32 sequences of its cache.

    Args:
        model: A GGUF file.
        threads: Of prefill and decoding.
    """

    def __init__(self, model: str, threads: int) -> None:
        llama_cpp.llama_backend_init()
        loaded = llama_cpp.llama_model_load_from_file(
            model.encode(), llama_cpp.llama_model_default_params()
        )
        settings = llama_cpp.llama_context_default_params()
        settings.n_ctx, settings.n_seq_max, settings.kv_unified = CONTEXT, MOST_SEQUENCES, True
        settings.n_batch = settings.n_ubatch = BATCH
        settings.n_threads = settings.n_threads_batch = threads
        self._context = llama_cpp.llama_init_from_model(loaded, settings)
        self._vocab_size = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(loaded))
        self._batch = llama_cpp.llama_batch_init(BATCH, 0, 1)
        self._memory = llama_cpp.llama_get_memory(self._context)
        self._rows: dict[int, _Row] = {}
        self._waiting: list[tuple[int, list[int], int]] = []
        self._free, self._added = list(range(MOST_SEQUENCES)), 0

    def ready(self) -> dict[str, Any]:
        return {
            "version": llama_cpp.__version__,
            "system": llama_cpp.llama_print_system_info().decode(),
        }

    def add(self, prompt: list[int], new_tokens: int) -> int:
        key, self._added = self._added, self._added + 1
        self._waiting.append((key, prompt, len(prompt) + new_tokens))
        return key

    def step(self) -> Iterator[tuple[int, int]]:
        """Each running row's next token or, within what the batch has left, its prompt."""
        while self._waiting and self._free:
            key, prompt, most = self._waiting.pop(0)
            self._rows[key] = _Row(list(prompt), most, self._free.pop())
        room = BATCH
        self._batch.n_tokens = 0
        for row in sorted(self._rows.values(), key=lambda row: len(row.tokens) - row.computed):
            new = row.tokens[row.computed : row.computed + room]
            row.last = self._put(row, new)
            room -= len(new)
        self._decode()
        for key, row in list(self._rows.items()):
            if row.last >= 0:
                token = int(self._logits(row.last).argmax())
                row.tokens.append(token)
                self._end_if_done(key, row)
                yield key, token

    def generate(self, prompts: list[list[int]], new_tokens: int) -> dict[str, Any]:
        return run_together(self, prompts, new_tokens)

    def logits(self, texts: list[list[int]], path: str, batch: int) -> None:
        """Save each text's logits (B T, V), as `benchmarks.engines.teacher` does ours."""
        out = np.empty((len(texts), len(texts[0]), self._vocab_size), np.float32)
        size = max(batch, 1)
        for begin in range(0, len(texts), size):
            group = [_Row(text, 0, i) for i, text in enumerate(texts[begin : begin + size])]
            self._score(group, 1 if batch else len(texts[0]), out[begin : begin + size])
        np.save(path, out.reshape(-1, self._vocab_size))

    def _score(self, group: list[_Row], count: int, out: np.ndarray) -> None:
        """Logits (B, T, V) of rows that advance together, `count` tokens a step."""
        for start in range(0, out.shape[1], count):
            self._batch.n_tokens = 0
            for row in group:
                self._put(row, row.tokens[start : start + count], everywhere=True)
            self._decode()
            for place, (row, t) in enumerate(product(range(len(group)), range(count))):
                out[row, start + t] = self._logits(place)
        llama_cpp.llama_memory_clear(self._memory, True)

    def _put(self, row: _Row, tokens: Iterable[int], *, everywhere: bool = False) -> int:
        """Add a row's next tokens to the batch; where its last one lies, if it is complete."""
        batch, place = self._batch, -1
        for token in tokens:
            place = batch.n_tokens
            row.computed += 1
            complete = row.computed == len(row.tokens)
            batch.token[place], batch.pos[place] = token, row.computed - 1
            batch.n_seq_id[place], batch.seq_id[place][0] = 1, row.sequence
            batch.logits[place] = everywhere or complete
            batch.n_tokens += 1
        return place if row.computed == len(row.tokens) else -1

    def _decode(self) -> None:
        if code := llama_cpp.llama_decode(self._context, self._batch):
            raise RuntimeError(f"llama_decode: {code}")

    def _logits(self, place: int) -> np.ndarray:
        at = llama_cpp.llama_get_logits_ith(self._context, place)
        return np.ctypeslib.as_array(at, (self._vocab_size,))

    def _end_if_done(self, key: int, row: _Row) -> None:
        if len(row.tokens) == row.most:
            llama_cpp.llama_memory_seq_rm(self._memory, row.sequence, -1, -1)
            self._free.append(row.sequence)
            del self._rows[key]


def quantize(source: str, target: str) -> None:
    """Write a Q8_0 file of a GGUF file by llama.cpp's own quantizer."""
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = llama_cpp.LLAMA_FTYPE_MOSTLY_Q8_0
    params.allow_requantize = True
    code = llama_cpp.llama_model_quantize(source.encode(), target.encode(), ctypes.byref(params))
    if code:
        raise RuntimeError(f"llama_model_quantize: {code}")


if __name__ == "__main__":
    if sys.argv[1] == "quantize":
        quantize(*sys.argv[2:4])
    else:
        serve(LlamaCpp)
