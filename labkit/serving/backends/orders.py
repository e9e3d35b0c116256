"""Requests in an engine's terms: token ids, sampling configurations, seeds, grammars."""

import secrets
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace

from labkit.inference.sampling import LARGEST_SEED, SamplingConfig
from labkit.serving import structure
from labkit.serving.backends.local_engine import LocalEngine
from labkit.serving.errors import unknown_model
from labkit.serving.prompts import Prompts
from labkit.serving.schemas.chat import ChatRequest
from labkit.serving.schemas.generation import (
    DEFAULT_COMPLETION_TOKENS,
    CompletionRequest,
    GenerationRequest,
)
from labkit.serving.ticket import Job
from labkit.serving.trace import Trace


@dataclass(frozen=True, kw_only=True, slots=True)
class Order:
    """What a request asks of the engine.

    Attributes:
        prompts: Token ids.
        jobs: `samples` texts for each prompt, in order.
        samples: n, or best_of.
    """

    prompts: list[list[int]]
    jobs: list[Job]
    samples: int

    @property
    def prompt_tokens(self) -> int:
        """Of all prompts, each once."""
        return sum(map(len, self.prompts))


class Orders:
    """Takes requests for one engine.

    Args:
        engine: Whose model and adapters they may name.
        base_name: The base's name in requests.
        structured: Who compiles grammars.
    """

    def __init__(self, engine: LocalEngine, base_name: str, structured: structure.Maker) -> None:
        self.prompts = Prompts(engine.tokenizer, engine.max_length, engine.vocab_size)
        self._engine, self._base_name, self._structured = engine, base_name, structured

    def adapter(self, model: str) -> str | None:
        """The adapter that a request's model names; None for the base.

        Raises:
            ApiError: 404, there is none.
        """
        if model == self._base_name:
            return None
        mounted = self._engine.mounted()
        if model not in mounted and model not in mounted.values():
            raise unknown_model(model, [self._base_name, *mounted])
        return model

    async def take(self, request: GenerationRequest, trace: Trace) -> Order:
        """The order of a request.

        Raises:
            ApiError, ValueError: It names an unknown model (told before anything else), or cannot
                be met.
        """
        adapter = self.adapter(request.model)
        trace.of(request.model, adapter)
        if isinstance(request, ChatRequest):
            prompts = [await self.prompts.chat(request.messages)]
            limit = self.prompts.room(prompts)
        else:
            assert isinstance(request, CompletionRequest)
            prompts = await self.prompts.encode(request.prompt)
            limit = DEFAULT_COMPLETION_TOKENS
        limit = max(limit, request.min_tokens)
        config = request.sampling(max_new_tokens=limit, seed=secrets.randbelow(LARGEST_SEED))
        samples = request.sequences // len(prompts)
        jobs = list(self._jobs(request, prompts, samples, config, adapter))
        return Order(prompts=prompts, jobs=jobs, samples=samples)

    def _jobs(
        self,
        request: GenerationRequest,
        prompts: list[list[int]],
        samples: int,
        config: SamplingConfig,
        adapter: str | None,
    ) -> Iterator[Job]:
        """The k-th text of equal prompts draws from seed + k."""
        repetitions: Counter[tuple[int, ...]] = Counter()
        for ids in (ids for ids in prompts for _ in range(samples)):
            seed = (config.seed + repetitions[tuple(ids)]) % (LARGEST_SEED + 1)
            repetitions[tuple(ids)] += 1
            budget = min(config.max_new_tokens, self.prompts.room([ids]))
            yield Job(
                prompt=ids,
                config=replace(config, seed=seed),
                adapter=adapter,
                constraint=structure.maker(
                    request,
                    self._engine.tokenizer,
                    vocab_size=self._engine.vocab_size,
                    budget=budget,
                    by=self._structured,
                ),
                client=request.user or "",
            )
