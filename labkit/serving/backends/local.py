"""Answers from an engine in this process."""

import asyncio
from collections.abc import AsyncGenerator, Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from labkit.inference.paging import OutOfPagesError
from labkit.serving import echo, embeddings, structure
from labkit.serving.backends.base import ACCEPTED, Body, Card
from labkit.serving.backends.local_engine import LocalEngine
from labkit.serving.backends.orders import Order, Orders
from labkit.serving.echo import Echo
from labkit.serving.errors import ApiError
from labkit.serving.schemas.chat import ChatRequest
from labkit.serving.schemas.generation import CompletionRequest, GenerationRequest, StreamOptions
from labkit.serving.schemas.others import EmbeddingRequest
from labkit.serving.scoring import Scored
from labkit.serving.shapes import CHAT, COMPLETION, Logprobs, Shape, usage
from labkit.serving.step_engine import Load
from labkit.serving.texts import Text, Texts
from labkit.serving.trace import Trace
from labkit.serving.worker import Worker

RETRY_S = 0.02  # until pages may be free for a prompt that is to be scored


class LocalBackend:
    """A `Backend` around an engine that advances by steps.

    Args:
        engine: The model.
        base_name: Its name in requests.
        structured: Who compiles grammars: "hand" (labkit's own) or "llguidance".
    """

    def __init__(
        self, engine: LocalEngine, base_name: str, *, structured: structure.Maker = "hand"
    ) -> None:
        self.engine, self.base_name, self.max_batch = engine, base_name, engine.max_batch
        self.worker = Worker(engine)
        self._orders = Orders(engine, base_name, structured)

    async def start(self) -> None:
        self.worker.start()

    async def close(self) -> None:
        await self.worker.close()

    def unready(self) -> str:
        return "" if self.worker.alive else self.worker.broken or "the engine does not run"

    def cards(self) -> list[Card]:
        length = self.engine.max_length
        base = Card(name=self.base_name, parent=None, root=self.base_name, max_length=length)
        return [base] + [
            Card(name=name, parent=self.base_name, root=root, max_length=length)
            for name, root in self.engine.mounted().items()
        ]

    def load(self) -> Load:
        return replace(self.engine.load(), broken=bool(self.worker.broken))

    async def answer(self, request: GenerationRequest, trace: Trace) -> Body:
        order = await self._orders.take(request, trace)
        trace.accepted(order.prompt_tokens)
        echoes = await self._echoes(request, order, trace)
        if echoes and all(e.following for e in echoes):
            texts = [e.following for e in echoes if e.following for _ in range(order.samples)]
        else:
            async with Texts(self.worker, order.jobs, trace) as under_way:
                texts = await under_way.all()
        kept = _best(texts, order.samples, request.choices)
        shape = _shape(request)
        return {
            **shape.head(request.model, stream=False),
            "choices": self._choices(request, kept, echoes, shape),
            "usage": usage(order.prompt_tokens, _count(texts)),
        }

    async def events(self, request: GenerationRequest, trace: Trace) -> AsyncGenerator[Body, None]:
        order = await self._orders.take(request, trace)
        shape, offsets = _shape(request), [0] * len(order.jobs)
        head = shape.head(request.model, stream=True)
        logprobs = Logprobs(self.engine.tokenizer, shape)
        options = request.stream_options or StreamOptions()
        async with Texts(self.worker, order.jobs, trace) as texts:

            def counted() -> Body:
                return {"usage": usage(order.prompt_tokens, _count(texts.texts))}

            def event(choice: Body) -> Body:
                counts = counted() if options.continuous_usage_stats else {}
                return {**head, "choices": [choice], **counts}

            trace.accepted(order.prompt_tokens)
            yield ACCEPTED
            for index in range(len(order.jobs)) if shape.is_chat else ():
                yield event(shape.first(index))
            async for index, output in texts.outputs():
                listed = None
                if request.wants_logprobs:
                    listed = logprobs.body([output.choice], offsets[index])
                offsets[index] += len(output.text)
                if output.text or output.finish_reason or listed:
                    yield event(shape.delta(index, output.text, listed, output.finish_reason))
            if options.include_usage:
                yield {**head, "choices": [], **counted()}

    async def embed(self, request: EmbeddingRequest, trace: Trace) -> Body:
        if self._orders.adapter(request.model) is not None:
            raise ApiError("embeddings are the base model's: name that one", param="model")
        trace.of(request.model, None)
        inputs = await self._orders.prompts.encode(request.input, param="input")
        tokens = sum(map(len, inputs))
        trace.accepted(tokens)
        vectors = [await self.worker.call(partial(self.engine.embed, ids)) for ids in inputs]
        return embeddings.body(request, vectors, tokens)

    async def load_adapter(self, name: str, folder: Path) -> Card:
        await asyncio.to_thread(self.engine.mount, name, folder)
        return next(card for card in self.cards() if name in (card.name, card.root))

    async def unload_adapter(self, name: str) -> None:
        self.engine.unmount(name)

    async def _echoes(self, request: GenerationRequest, order: Order, trace: Trace) -> list[Echo]:
        """One a prompt, where the request asks for them."""
        if not (isinstance(request, CompletionRequest) and request.echo):
            return []
        texts = echo.prompt_texts(request, order.prompts, self.engine.tokenizer)
        echoes = [Echo(text) for text in texts]
        for index, found in enumerate(echoes):
            job = order.jobs[index * order.samples]
            if request.max_tokens == 0:
                found.following = echo.nothing()
            if request.wants_logprobs:
                num_top = job.config.logprobs or 0
                scored = await self._score(job.prompt, job.adapter, num_top)
                found.choices = scored.choices
                simple = order.samples == 1 and job.constraint is None
                if request.max_tokens == 1 and simple:
                    found.following = echo.next_token(scored, job, self.engine.tokenizer)
                    trace.token(index)
        return echoes

    async def _score(self, ids: list[int], adapter: str | None, num_top: int) -> Scored:
        while True:
            try:
                return await self.worker.call(partial(self.engine.score, ids, adapter, num_top))
            except OutOfPagesError:
                await asyncio.sleep(RETRY_S)

    def _choices(
        self,
        request: GenerationRequest,
        texts: Sequence[Text],
        echoes: Sequence[Echo],
        shape: Shape,
    ) -> list[Body]:
        logprobs = Logprobs(self.engine.tokenizer, shape)
        choices: list[Body] = []
        for index, text in enumerate(texts):
            before = echoes[index // request.choices] if echoes else Echo("")
            listed = before.choices + text.choices
            choices.append(
                shape.choice(
                    index,
                    before.text + "".join(text.pieces),
                    logprobs.body(listed) if request.wants_logprobs else None,
                    text.finish_reason or "length",
                )
            )
        return choices


def _shape(request: GenerationRequest) -> Shape:
    return CHAT if isinstance(request, ChatRequest) else COMPLETION


def _count(texts: Iterable[Text]) -> int:
    """New tokens of all texts."""
    return sum(len(text.choices) for text in texts)


def _best(texts: list[Text], samples: int, n: int) -> list[Text]:
    """The n likeliest of each prompt's samples, the likeliest first; all of them as they came."""
    if samples == n:
        return texts
    kept: list[Text] = []
    for at in range(0, len(texts), samples):
        kept += sorted(texts[at : at + samples], key=lambda text: -text.logprob)[:n]
    return kept
