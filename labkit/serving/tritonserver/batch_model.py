"""The model `generate_batch`: Triton gathers requests into a batch, labkit runs it."""

import json
from typing import Any

import numpy as np

from labkit.inference.generate import Generation
from labkit.serving.tritonserver import protocol
from labkit.serving.tritonserver.metrics import TokenCounter
from labkit.serving.tritonserver.texts import TextRequest, Texts


class TritonPythonModel:
    """Answers each request once, many requests an execution."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the model; Triton calls it once, before any request."""
        config = json.loads(args["model_config"])
        self._texts = Texts.from_parameters(protocol.parameters(config))
        self._counter = TokenCounter(args["model_name"])

    def execute(self, requests: list[Any]) -> list[Any]:
        """One response a request, in their order, from one batch of all their rows."""
        read = [_read(request) for request in requests]
        rows = [row for one in read if not isinstance(one, ValueError) for row in one]
        answers = iter(zip(rows, self._texts.generate(rows), strict=True))
        responses = []
        for one in read:
            if isinstance(one, ValueError):
                responses.append(protocol.failure(one))
            else:
                responses.append(self._respond([next(answers) for _ in one]))
        return responses

    def _respond(self, answers: list[tuple[TextRequest, Generation | ValueError]]) -> Any:
        texts: list[Generation] = []
        for request, answer in answers:
            if isinstance(answer, ValueError):
                return protocol.failure(answer)
            self._counter.add(request.adapter, len(answer.ids))
            texts.append(answer)
        B = len(texts)
        return protocol.response(
            text=protocol.strings([text.text for text in texts], (B, 1)),
            tokens=np.array([len(text.ids) for text in texts], np.int32).reshape(B, 1),
            finish_reason=protocol.strings([text.finish_reason for text in texts], (B, 1)),
        )


def _read(request: Any) -> list[TextRequest] | ValueError:
    try:
        return protocol.read(request, required=("prompt", "adapter"))
    except ValueError as error:
        return error
