"""The engine: requests come and go at any step, and every step serves all of them together."""

from collections import Counter
from collections.abc import Iterator
from collections.abc import Sequence as Tokens
from dataclasses import dataclass, replace

from labkit.inference.adapters.errors import UnknownAdapterError
from labkit.inference.chooser import Choice, TokenChooser, choose
from labkit.inference.constraint import Constraint
from labkit.inference.engine_config import (
    EngineConfig,
    build_bank,
    build_cold,
    build_executor,
    num_pages,
)
from labkit.inference.generate import Generation, encode_prompt, finished
from labkit.inference.paging import BlockManager
from labkit.inference.rows import FinishReason, Row, budget
from labkit.inference.sampling import SamplingConfig
from labkit.inference.scheduler import Chunk, Scheduler, Sequence
from labkit.inference.step_batch import StepBatch, flatten
from labkit.inference.text import TextAssembler
from labkit.model.minillm import MiniLLM
from labkit.model.tokenizer import Tokenizer


@dataclass(frozen=True, kw_only=True, slots=True)
class Output:
    """What one step added to a request.

    Attributes:
        key: The request's number.
        text: What has become final, often nothing.
        choice: The token, with its log-probabilities where they were asked for.
        finish_reason: At the last output: "stop" or "length".
    """

    key: int
    text: str
    choice: Choice
    finish_reason: FinishReason | None


class Engine:
    """Continuous batching over paged keys and values.

    Greedy texts in float32 do not depend on who else is in the batch; sampled ones draw from each
    request's own generator. Not thread-safe: one thread calls it, `labkit.serving` gives it one.

    Args:
        model: MiniLLM; with packed weights it is copied and may be dropped.
        tokenizer: its tokenizer.
        config: sizes and weights.

    Raises:
        ValueError: The model does not fit what the configuration asks for.
        NoKernelsError: The native kernels were asked for and cannot be built.
    """

    def __init__(
        self, model: MiniLLM, tokenizer: Tokenizer, config: EngineConfig | None = None
    ) -> None:
        self.config = EngineConfig() if config is None else config
        self.tokenizer = tokenizer
        self.max_length, self._vocab_size = model.config.max_length, model.config.vocab_size
        pages = num_pages(self.config, self.max_length)
        self.adapters = build_bank(model, self.config)
        self.executor = build_executor(model, self.config, pages, self.adapters)
        self.cold = build_cold(self.executor.cache, self.config)
        self.blocks = BlockManager(
            pages,
            self.config.page_size,
            prefix_cache=self.config.prefix_cache,
            cold=self.cold,
        )
        self._scheduler = Scheduler(
            self.blocks,
            token_budget=self.config.token_budget,
            max_batch=self.config.max_batch,
        )
        self._rows: dict[int, Row] = {}
        self._next_key = 0
        self.preemptions = self.cached_tokens = 0  # since the engine began

    @property
    def unfinished(self) -> int:
        """Requests that wait or run."""
        return len(self._rows)

    @property
    def running(self) -> list[int]:
        """Numbers of the requests that have pages; the others wait."""
        return list(self._scheduler.running)

    def add_request(
        self,
        prompt: str | Tokens[int],
        config: SamplingConfig,
        *,
        adapter: str | None = None,
        priority: int = 0,
        client: str = "",
        constraint: Constraint | None = None,
    ) -> int:
        """Queue a prompt; it begins at one of the next steps.

        Args:
            prompt: Text as it is, or token ids.
            config: Choice of tokens and end.
            adapter: Name of a mounted adapter; the request keeps the version it began with.
            priority: Smaller ones are served first.
            client: Whom it is counted for: among equals, clients share the machine fairly.
            constraint: What the text must obey; the request advances it.

        Returns:
            The request's number, by which outputs and `abort` name it.

        Raises:
            ValueError: The prompt is empty or too long, for the model or for all pages together.
            UnknownAdapterError: Nothing is mounted under the adapter's name.
        """
        ids = encode_prompt(self.tokenizer, prompt) if isinstance(prompt, str) else list(prompt)
        config.check_token_ids(self._vocab_size)
        room = budget(ids, config, self.max_length)
        self._check_pages(len(ids), room)
        slot, salt = self._acquire(adapter)
        key, self._next_key = self._next_key, self._next_key + 1
        eos_id = None if config.ignore_eos else self.tokenizer.eos_id
        self._rows[key] = Row(
            ids,
            budget=room,
            chooser=TokenChooser(config, ids, constraint=constraint, eos_id=eos_id),
            eos_id=eos_id,
            assembler=TextAssembler(self.tokenizer, config.stop),
        )
        self._scheduler.add(
            Sequence(key, list(ids), priority=priority, client=client, slot=slot, salt=salt)
        )
        return key

    def step(self) -> list[Output]:
        """Run one step; what it added to each request whose next token it reached."""
        plan = self._scheduler.plan()
        self.preemptions += len(plan.preempted)
        if not plan.chunks:
            return []
        self.executor.cache.copy(plan.copies)
        logits = self.executor.run(self._batch(plan.chunks))
        self._scheduler.advance(plan)
        reached = [chunk.sequence for chunk in plan.chunks if chunk.complete]
        choices = choose(logits, [self._rows[s.key].chooser for s in reached])
        return [self._accept(s, choice) for s, choice in zip(reached, choices, strict=True)]

    def abort(self, key: int) -> None:
        """End a request at once and give its pages back; unknown and finished ones are ignored."""
        if key in self._rows:
            self._drop(key)

    def generate(
        self, prompts: Tokens[str | Tokens[int]], config: SamplingConfig
    ) -> list[Generation]:
        """One text a prompt, all of them through the same steps.

        As in `labkit.inference.generate`, the k-th repetition of a prompt draws from seed + k.
        """
        rows = [self._rows[key] for key in self._add_all(prompts, config)]
        while any(row.finish_reason is None for row in rows):
            self.step()
        return [finished(row) for row in rows]

    def stream(self, prompt: str | Tokens[int], config: SamplingConfig) -> Iterator[Output]:
        """Yield each token of one text as it comes; leaving early aborts the request.

        Raises:
            ValueError: As `add_request`; at the call.
        """
        return self._outputs(self.add_request(prompt, config))

    def check_integrity(self) -> None:
        """Assert that pages, tables and requests agree; for tests and after errors."""
        self.blocks.check_integrity()
        under_way = {**self._scheduler.waiting, **self._scheduler.running}
        assert set(under_way) == set(self._rows)
        if not under_way:
            assert self.blocks.used_pages == 0, f"{self.blocks.used_pages} pages leaked"

    def _outputs(self, key: int) -> Iterator[Output]:
        try:
            while key in self._rows:
                yield from (output for output in self.step() if output.key == key)
        finally:
            self.abort(key)

    def _add_all(self, prompts: Tokens[str | Tokens[int]], config: SamplingConfig) -> list[int]:
        repetitions: Counter[object] = Counter()
        keys: list[int] = []
        try:
            for prompt in prompts:
                same = prompt if isinstance(prompt, str) else tuple(prompt)
                seeded = replace(config, seed=config.seed + repetitions[same])
                repetitions[same] += 1
                keys.append(self.add_request(prompt, seeded))
        except ValueError:
            for key in keys:
                self.abort(key)
            raise
        return keys

    def _accept(self, sequence: Sequence, choice: Choice) -> Output:
        row = self._rows[sequence.key]
        text = row.accept(choice)
        sequence.tokens.append(choice.token)
        if row.finish_reason:
            self._drop(sequence.key)
        return Output(key=sequence.key, text=text, choice=choice, finish_reason=row.finish_reason)

    def _batch(self, chunks: Tokens[Chunk]) -> StepBatch:
        return flatten(
            chunks,
            [self.blocks.table(chunk.sequence.key) for chunk in chunks],
            page_size=self.config.page_size,
            device=self.executor.cache.keys.device,
            adapters=self.adapters is not None,
        )

    def _drop(self, key: int) -> None:
        sequence = self._scheduler.remove(key)
        del self._rows[key]
        self.cached_tokens += sequence.cached
        if self.adapters is not None:
            self.adapters.release(sequence.slot)

    def _acquire(self, adapter: str | None) -> tuple[int, bytes]:
        """The adapter's slot, counted, and what its pages are found by."""
        if adapter is None:
            return 0, b""
        if self.adapters is None:
            raise UnknownAdapterError(
                f"adapter {adapter!r}: the engine has max_adapters=0, give it room for some"
            )
        slot = self.adapters.acquire(adapter)
        return slot, self.adapters.uid(slot).to_bytes(8, "little")

    def _check_pages(self, prompt_length: int, budget: int) -> None:
        wanted = self.blocks.pages_for(prompt_length + budget - 1)
        if wanted > self.blocks.num_pages:
            raise ValueError(
                f"the prompt's {prompt_length} tokens and {budget} new ones take {wanted} pages, "
                f"and the engine has num_pages={self.blocks.num_pages}: ask for fewer, or give it "
                "more"
            )
