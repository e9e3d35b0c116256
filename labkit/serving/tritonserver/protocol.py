"""Between Triton's tensors and labkit's requests, inside a model's process."""

import json
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils
from numpy.typing import NDArray

from labkit.inference.adapters.errors import UnknownAdapterError
from labkit.inference.sampling import SamplingConfig
from labkit.serving.tritonserver.texts import TextRequest

DEFAULT_MAX_TOKENS = 64
INPUTS = ("prompt", "adapter", "max_tokens", "temperature", "seed")


def parameters(config: dict[str, Any]) -> dict[str, str]:
    """The parameters that the model's `config.pbtxt` has."""
    return {key: value["string_value"] for key, value in config["parameters"].items()}


def read(request: Any, required: tuple[str, ...]) -> list[TextRequest]:
    """The rows of one inference request.

    Raises:
        ValueError: An input is missing (Triton only counts them), a value is out of range, text is
            not UTF-8, or an input is unknown (Triton's `/generate` makes it a parameter).
    """
    given = {tensor.name(): tensor.as_numpy().reshape(-1) for tensor in request.inputs()}
    unknown = set(json.loads(request.parameters() or "{}"))
    missing = set(required) - set(given)
    if unknown or missing:
        raise ValueError(
            f"inputs missing: {', '.join(sorted(missing)) or 'none'}; unknown: "
            f"{', '.join(sorted(unknown)) or 'none'}; there are {', '.join(INPUTS)}"
        )
    rows = range(len(given["prompt"]))
    return [_row({name: column[row] for name, column in given.items()}) for row in rows]


def _row(given: dict[str, Any]) -> TextRequest:
    sampling = SamplingConfig(
        max_new_tokens=int(given.get("max_tokens", DEFAULT_MAX_TOKENS)),
        temperature=float(given.get("temperature", 0.0)),
        seed=int(given.get("seed", 0)),
    )
    adapter = given.get("adapter", b"").decode()
    return TextRequest(prompt=given["prompt"].decode(), adapter=adapter, sampling=sampling)


def strings(texts: list[str], shape: tuple[int, ...]) -> NDArray[np.object_]:
    """Text as Triton carries it: UTF-8, in an array of objects."""
    return np.array([text.encode() for text in texts], dtype=np.object_).reshape(shape)


def response(**outputs: NDArray[Any]) -> Any:
    """A response with these output tensors."""
    tensors = [pb_utils.Tensor(name, array) for name, array in outputs.items()]
    return pb_utils.InferenceResponse(tensors)


def failure(error: Exception) -> Any:
    """A response that says what went wrong, with the status that the client sees."""
    code = pb_utils.TritonError.INTERNAL
    if isinstance(error, UnknownAdapterError):
        code = pb_utils.TritonError.NOT_FOUND
    elif isinstance(error, ValueError):
        code = pb_utils.TritonError.INVALID_ARG
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(str(error), code))


def cancelled() -> Any:
    """The last response to a client that has gone."""
    error = pb_utils.TritonError("cancelled by the client", pb_utils.TritonError.CANCELLED)
    return pb_utils.InferenceResponse(error=error)
