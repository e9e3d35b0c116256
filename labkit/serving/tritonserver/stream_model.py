"""The model `generate`: decoupled, so that one request is answered token by token."""

import json
from dataclasses import dataclass
from queue import SimpleQueue
from threading import Thread
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

from labkit.inference.engine import Output
from labkit.serving.tritonserver import protocol
from labkit.serving.tritonserver.metrics import StreamGauge, TokenCounter
from labkit.serving.tritonserver.texts import Texts


class TritonPythonModel:
    """Advances all streams together, a token each a step, in a thread of its own."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the model; Triton calls it once, before any request."""
        config = json.loads(args["model_config"])
        self._texts = Texts.from_parameters(protocol.parameters(config))
        self._counter = TokenCounter(args["model_name"])
        self._gauge = StreamGauge(args["model_name"])
        self._streams: dict[int, _Stream] = {}
        self._arrivals: SimpleQueue[Any] = SimpleQueue()
        self._thread = Thread(target=self._run, name="labkit-streams")
        self._thread.start()

    def execute(self, requests: list[Any]) -> None:
        """Take requests in; their responses follow from the other thread."""
        for request in requests:
            self._arrivals.put(request)

    def finalize(self) -> None:
        """Stop the thread; Triton calls it once, when no request is under way."""
        self._arrivals.put(None)
        self._thread.join()

    def _run(self) -> None:
        while True:
            while not self._streams or not self._arrivals.empty():
                request = self._arrivals.get()
                if request is None:
                    return
                self._begin(request)
            self._step()

    def _begin(self, request: Any) -> None:
        sender = request.get_response_sender()
        try:
            [row] = protocol.read(request, required=("prompt",))
            self._streams[self._texts.add(row)] = _Stream(sender, row.adapter)
        except Exception as error:  # told to the client; the thread serves the others on
            _send(sender, protocol.failure(error), ended=True)
        self._gauge.show(len(self._streams))

    def _step(self) -> None:
        try:
            outputs = self._texts.step()
        except Exception as error:  # it was the step of all of them
            for key in list(self._streams):
                self._end(key, protocol.failure(error))
            return
        for output in outputs:
            stream, response = self._streams[output.key], _response(output)
            stream.tokens += 1
            if output.finish_reason is None:
                _send(stream.sender, response, ended=False)
            else:
                self._end(output.key, response)
        for key, stream in list(self._streams.items()):
            if stream.sender.is_cancelled():
                self._end(key, protocol.cancelled())

    def _end(self, key: int, response: Any) -> None:
        """Send a stream's last response, and forget it here and in the engine."""
        stream = self._streams.pop(key)
        self._texts.abort(key)
        self._counter.add(stream.adapter, stream.tokens)
        _send(stream.sender, response, ended=True)
        self._gauge.show(len(self._streams))


@dataclass(slots=True)
class _Stream:
    """One request under way."""

    sender: Any
    adapter: str
    tokens: int = 0


def _send(sender: Any, response: Any, *, ended: bool) -> None:
    flags = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL if ended else 0
    sender.send(response, flags=flags)


def _response(output: Output) -> Any:
    return protocol.response(
        text=protocol.strings([output.text], (1,)),
        token=np.array([output.choice.token], np.int32),
        finish_reason=protocol.strings([output.finish_reason or ""], (1,)),
    )
