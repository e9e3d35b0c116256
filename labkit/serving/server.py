"""Running the application in this process until it is interrupted."""

import socket
from collections.abc import Mapping
from pathlib import Path

import uvicorn

from labkit.model.zoo import Loaded
from labkit.serving.app import create_app


def build_server(
    loaded: Loaded,
    adapters: Mapping[str, Path | str] | None = None,
    *,
    base_name: str | None = None,
    log_level: str = "warning",
) -> uvicorn.Server:
    """The server, not started; `listen` gives it a socket."""
    app = create_app(loaded, adapters, base_name=base_name)
    return uvicorn.Server(uvicorn.Config(app, log_level=log_level))


def listen(host: str, port: int) -> socket.socket:
    """A bound socket; port 0 takes a free one (`getsockname()[1]` tells which).

    Raises:
        OSError: The address is taken or is not this machine's; the message names it.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((host, port))
    except OSError as error:
        bound.close()
        raise OSError(f"cannot listen on {host}:{port}: {error.strerror or error}") from error
    return bound


def serve(
    loaded: Loaded,
    adapters: Mapping[str, Path | str] | None = None,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    base_name: str | None = None,
) -> None:
    """Serve until interrupted.

    Raises:
        OSError: The address cannot be listened on.
        ValueError: An adapter does not fit.
    """
    server = build_server(loaded, adapters, base_name=base_name, log_level="info")
    with listen(host, port) as bound:
        server.run(sockets=[bound])
