"""A transformers model as an engine: any architecture it knows, one text after the other.

Each text has its own cache of keys and values, and a step runs one forward pass for each text under
way: correct for whatever transformers can load, and slow, for comparison and for models that
MiniLLM does not compute.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from labkit.inference.chooser import Choice, TokenChooser, choose
from labkit.inference.constraint import Constraint
from labkit.inference.engine import Output
from labkit.inference.generate import encode_prompt
from labkit.inference.logprobs import token_logprobs
from labkit.inference.rows import Row, budget
from labkit.inference.sampling import SamplingConfig
from labkit.inference.text import TextAssembler
from labkit.model.tokenizer import Tokenizer
from labkit.runtime.errors import MissingDependencyError
from labkit.serving.backends.peft_adapters import PeftAdapters
from labkit.serving.scoring import Scored
from labkit.serving.step_engine import Load


@dataclass(slots=True)
class _Sequence:
    """A text under way: its tokens that are not in the cache yet, and the cache."""

    row: Row
    slot: int
    pending: list[int]
    cache: Any = None


class TransformersEngine:
    """A `LocalEngine` over a causal language model of transformers.

    Args:
        model: In eval mode.
        tokenizer: Its tokenizer.
        max_batch: Texts under way at once.
        max_adapters: Adapters mounted at a time.
        max_rank: Highest LoRA rank.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Tokenizer,
        *,
        max_batch: int,
        max_adapters: int,
        max_rank: int,
    ) -> None:
        self.tokenizer, self.max_batch = tokenizer, max_batch
        self.max_length = int(model.config.max_position_embeddings)
        self.vocab_size = int(model.config.vocab_size)
        self._model = model
        self._adapters = PeftAdapters(model, max_adapters=max_adapters, max_rank=max_rank)
        self._sequences: dict[int, _Sequence] = {}
        self._next_key = 0

    @property
    def unfinished(self) -> int:
        return len(self._sequences)

    @property
    def running(self) -> list[int]:
        return list(self._sequences)[: self.max_batch]

    def add_request(
        self,
        prompt: str | Sequence[int],
        config: SamplingConfig,
        *,
        adapter: str | None = None,
        priority: int = 0,
        client: str = "",
        constraint: Constraint | None = None,
    ) -> int:
        ids = encode_prompt(self.tokenizer, prompt) if isinstance(prompt, str) else list(prompt)
        config.check_token_ids(self.vocab_size)
        room = budget(ids, config, self.max_length)
        eos_id = None if config.ignore_eos else self.tokenizer.eos_id
        row = Row(
            ids,
            budget=room,
            chooser=TokenChooser(config, ids, constraint=constraint, eos_id=eos_id),
            eos_id=eos_id,
            assembler=TextAssembler(self.tokenizer, config.stop),
        )
        slot = 0 if adapter is None else self._adapters.roster.acquire(adapter).slot
        key, self._next_key = self._next_key, self._next_key + 1
        self._sequences[key] = _Sequence(row, slot, ids)
        return key

    def step(self) -> list[Output]:
        return [self._advance(key, self._sequences[key]) for key in self.running]

    def abort(self, key: int) -> None:
        sequence = self._sequences.pop(key, None)
        if sequence is not None and sequence.slot:
            self._adapters.roster.release(sequence.slot)

    def check_integrity(self) -> None:
        self._adapters.roster.check_integrity()
        counted = sum(entry.requests for entry in self._adapters.roster.entries)
        assert counted == sum(1 for s in self._sequences.values() if s.slot), "a reference leaked"

    def score(self, ids: Sequence[int], adapter: str | None, num_top: int) -> Scored:
        roster = self._adapters.roster
        slot = 0 if adapter is None else roster.acquire(adapter).slot
        try:
            logits = self._run(ids, slot).logits[0]
        finally:
            if slot:
                roster.release(slot)
        following = torch.tensor(list(ids[1:]), dtype=torch.int64)
        pairs = token_logprobs(logits[:-1], following, num_top)
        choices = [Choice(t, *pair) for t, pair in zip(ids[1:], pairs, strict=True)]
        return Scored(choices=[Choice(ids[0]), *choices], last=logits[-1])

    def embed(self, ids: Sequence[int]) -> Float[Tensor, " D"]:
        hidden = self._run(ids, 0, output_hidden_states=True).hidden_states[-1]
        return nn.functional.normalize(hidden[0].float().mean(dim=0), dim=0).cpu()

    def mount(self, name: str, folder: Path) -> None:
        self._adapters.mount(name, folder)

    def unmount(self, name: str) -> None:
        self._adapters.roster.retire(name)

    def mounted(self) -> dict[str, str]:
        return self._adapters.roster.aliases

    def load(self) -> Load:
        running = min(self.unfinished, self.max_batch)
        entries = self._adapters.roster.entries
        return Load(
            running=running,
            waiting=self.unfinished - running,
            adapters={entry.name: entry.requests for entry in entries},
        )

    def _advance(self, key: int, sequence: _Sequence) -> Output:
        out = self._run(sequence.pending, sequence.slot, past_key_values=sequence.cache)
        sequence.cache = out.past_key_values
        [choice] = choose(out.logits[:, -1], [sequence.row.chooser])
        text = sequence.row.accept(choice)
        sequence.pending = [choice.token]
        if sequence.row.finish_reason:
            self.abort(key)
        reason = sequence.row.finish_reason
        return Output(key=key, text=text, choice=choice, finish_reason=reason)

    @torch.inference_mode()
    def _run(self, ids: Sequence[int], slot: int, **options: Any) -> Any:
        row = torch.tensor([list(ids)], device=self._model.device)
        with self._adapters.using(slot):
            return self._model(input_ids=row, use_cache=True, **options)


def load(
    folder: Path, *, dtype: str, device: str, max_batch: int, max_adapters: int, max_rank: int
) -> TransformersEngine:
    """The engine of a folder in Hugging Face's layout.

    Raises:
        MissingDependencyError: transformers is not installed.
        OSError, ValueError: As transformers.
    """
    try:
        from transformers import AutoModelForCausalLM
    except ImportError as error:
        raise MissingDependencyError(
            "--backend transformers needs that package: pip install 'llm-engineering-lab[peers]'"
        ) from error
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
    model = model if device == "auto" else model.to(device)
    return TransformersEngine(
        model.eval(),
        Tokenizer.load(folder),
        max_batch=max_batch,
        max_adapters=max_adapters,
        max_rank=max_rank,
    )
