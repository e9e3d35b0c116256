"""Every way a request can fail, each with its status, in OpenAI's form.

`{"error": {"message", "type", "param", "code"}}`. Stock clients retry 408, 409, 429 and 5xx unless
the header `x-should-retry` says otherwise.
"""

from collections.abc import Mapping
from typing import Any

from labkit.inference.adapters.errors import (
    AdapterCapacityError,
    AdapterError,
    AdapterNameError,
    InvalidAdapterError,
    MismatchedAdapterError,
    UnknownAdapterError,
    UnsupportedAdapterError,
)
from labkit.runtime.errors import MissingDependencyError

NO_RETRY = {"x-should-retry": "false"}


class ApiError(Exception):
    """A failure that a client is told of.

    Args:
        message: What was met, and the way out.
        status: Of HTTP.
        code: For programs.
        param: The field at fault.
        headers: Of the response.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int = 400,
        code: str | None = None,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.message, self.status, self.param = message, status, param
        self.code = code or str(status)
        self.headers = dict(headers or {})

    @property
    def body(self) -> dict[str, Any]:
        """The error in OpenAI's form."""
        return {
            "error": {
                "message": self.message,
                "type": kind(self.status),
                "param": self.param,
                "code": self.code,
            }
        }


def kind(status: int) -> str:
    """OpenAI's `type` of a status."""
    named = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
    return named.get(status, "invalid_request_error" if status < 500 else "server_error")


def unknown_model(name: str, known: list[str]) -> ApiError:
    """404: nothing is served under the name."""
    return ApiError(
        f"the model {name!r} does not exist: this server has {', '.join(known)}",
        status=404,
        code="model_not_found",
        param="model",
    )


def overloaded(waiting: int, retry_after_s: int) -> ApiError:
    """429: the queue is full."""
    return ApiError(
        f"{waiting} texts are under way, as many as this server takes: "
        f"try again in {retry_after_s} s",
        status=429,
        code="queue_full",
        headers={"Retry-After": str(retry_after_s)},
    )


def unavailable(why: str) -> ApiError:
    """503: not now, perhaps elsewhere."""
    return ApiError(why, status=503, code="unavailable", headers={"Retry-After": "5"})


def timed_out(seconds: float) -> ApiError:
    """504: the request took too long; the same one would again."""
    return ApiError(
        f"the request took longer than {seconds:g} s: ask for fewer tokens, or with less company",
        status=504,
        code="request_timeout",
        headers=NO_RETRY,
    )


def step_failed(error: Exception) -> ApiError:
    """500: the engine's step that this request took part in raised."""
    return ApiError(
        f"{type(error).__name__} while the text was generated; the server's log says more",
        status=500,
        code="generation_failed",
    )


_ADAPTER_ERRORS: dict[type[AdapterError], tuple[int, str]] = {
    UnknownAdapterError: (404, "model_not_found"),
    AdapterNameError: (400, "invalid_adapter_name"),
    AdapterCapacityError: (409, "adapter_capacity"),
    InvalidAdapterError: (422, "invalid_adapter"),
    UnsupportedAdapterError: (422, "unsupported_adapter"),
    MismatchedAdapterError: (422, "mismatched_adapter"),
}


def as_api_error(error: Exception) -> ApiError:
    """What a client is told about an exception; 500, without details, if it is none of ours."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, AdapterError):
        status, code = _ADAPTER_ERRORS.get(type(error), (422, "adapter_refused"))
        headers = NO_RETRY if status == 409 else None
        return ApiError(str(error), status=status, code=code, headers=headers)
    if isinstance(error, MissingDependencyError):
        return ApiError(str(error), status=501, code="missing_dependency", headers=NO_RETRY)
    if isinstance(error, RecursionError):
        return ApiError("the request is nested too deeply", code="too_deep")
    if isinstance(error, ValueError):
        return ApiError(str(error))
    return ApiError(
        f"{type(error).__name__} in the server; its log says more", status=500, code="internal"
    )
