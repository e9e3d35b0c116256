"""What Triton's models ask of labkit: a batch of texts, or texts that advance step by step.

The only module here that knows how labkit generates.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from labkit.inference.adapters.errors import UnknownAdapterError
from labkit.inference.engine import Engine, Output
from labkit.inference.engine_config import EngineConfig
from labkit.inference.generate import Generation, encode_prompt
from labkit.inference.sampling import SamplingConfig
from labkit.model import zoo

MAX_RANK = 512  # memory grows with the ranks that are mounted, not with this


@dataclass(frozen=True, kw_only=True, slots=True)
class TextRequest:
    """One text to generate.

    Attributes:
        prompt: Taken as it is (no chat template).
        adapter: Its name; "" is the base.
        sampling: Choice of tokens and end.
    """

    prompt: str
    adapter: str = ""
    sampling: SamplingConfig = field(default_factory=SamplingConfig)


class Texts:
    """One engine for a base model and its adapters: every step serves texts of any of them.

    A text depends on its own request alone: it draws from a generator with the request's seed. Not
    thread-safe, as the engine.

    Args:
        loaded: The base model.
        adapters: Name in requests to PEFT folder, of LoRA adapters.

    Raises:
        AdapterError: An adapter is damaged, was made for another model, or is not LoRA.
    """

    def __init__(self, loaded: zoo.Loaded, adapters: Mapping[str, Path | str]) -> None:
        sizes = EngineConfig(max_adapters=len(adapters), max_rank=MAX_RANK)
        self._engine = Engine(loaded.model, loaded.tokenizer, sizes)
        self._adapters = list(adapters)
        if self._engine.adapters is not None:
            for name, folder in adapters.items():
                self._engine.adapters.mount(name, folder, keep_older=True)

    @classmethod
    def from_parameters(cls, parameters: Mapping[str, str]) -> "Texts":
        """Load what the parameters of a repository's `config.pbtxt` say."""
        torch.set_num_threads(int(parameters["threads"]))
        loaded = zoo.load(parameters["model"], dtype=parameters["dtype"], device="cpu")
        return cls(loaded, json.loads(parameters["adapters"]))

    def generate(self, requests: Sequence[TextRequest]) -> list[Generation | ValueError]:
        """Run requests of any adapters together; a request that cannot be met has its error."""
        assert not self._engine.unfinished, "texts that `add` began are under way"
        begun: list[int | ValueError] = []
        for request in requests:
            try:
                begun.append(self.add(request))
            except ValueError as error:
                begun.append(error)
        outputs: dict[int, list[Output]] = {key: [] for key in begun if isinstance(key, int)}
        while self._engine.unfinished:
            for output in self.step():
                outputs[output.key].append(output)
        return [
            key if isinstance(key, ValueError) else self._generation(request, outputs[key])
            for request, key in zip(requests, begun, strict=True)
        ]

    def add(self, request: TextRequest) -> int:
        """Begin a text; `step` advances it.

        Returns:
            The number that its outputs have.

        Raises:
            UnknownAdapterError: The adapter is not mounted.
            ValueError: The prompt is empty or too long.
        """
        if request.adapter and request.adapter not in self._adapters:
            raise UnknownAdapterError(
                f"no adapter {request.adapter!r} is mounted: this model has "
                f"{', '.join(self._adapters) or 'none'}; leave the adapter out for the base"
            )
        adapter = request.adapter or None
        return self._engine.add_request(request.prompt, request.sampling, adapter=adapter)

    def step(self) -> list[Output]:
        """Advance all texts at once: a token of each, but of those whose prompt is still read."""
        return self._engine.step()

    def abort(self, key: int) -> None:
        """End a text; one that has ended is ignored."""
        self._engine.abort(key)

    def _generation(self, request: TextRequest, outputs: Sequence[Output]) -> Generation:
        finish_reason = outputs[-1].finish_reason
        assert finish_reason is not None
        choices = [output.choice for output in outputs]
        return Generation(
            text="".join(output.text for output in outputs),
            ids=[choice.token for choice in choices],
            finish_reason=finish_reason,
            prompt_tokens=len(encode_prompt(self._engine.tokenizer, request.prompt)),
            logprobs=None if request.sampling.logprobs is None else choices,
        )
