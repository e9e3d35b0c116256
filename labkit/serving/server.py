"""Running the application in this process until it is interrupted."""

import asyncio
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import uvicorn
from fastapi import FastAPI

from labkit.inference.engine_config import EngineConfig
from labkit.model.zoo import Loaded
from labkit.serving.adapter_source import Registry
from labkit.serving.app import create_app
from labkit.serving.backends.base import Backend
from labkit.serving.backends.build import engine_backend
from labkit.serving.config import ServingConfig


class Server(uvicorn.Server):
    """Uvicorn that lets requests end before it goes: new ones are answered 503 meanwhile."""

    def __init__(self, app: FastAPI, log_level: str) -> None:
        super().__init__(uvicorn.Config(app, log_level=log_level, access_log=False))
        self._gateway = app.state.gateway

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Drain the gateway beside uvicorn's own wait for open connections."""
        draining = asyncio.ensure_future(self._gateway.shut_down())
        await super().shutdown(sockets)
        await draining


def build_server(
    loaded: Loaded,
    adapters: Mapping[str, Path | str] | None = None,
    *,
    base_name: str | None = None,
    log_level: str = "warning",
    engine: EngineConfig | None = None,
    config: ServingConfig | None = None,
) -> Server:
    """The server over our engine, not started; `listen` gives it a socket."""
    backend = engine_backend(loaded, adapters, base_name=base_name, engine=engine)
    return server_of(backend, config, log_level=log_level)


def server_of(
    backend: Backend,
    config: ServingConfig | None = None,
    registry: Registry | None = None,
    *,
    log_level: str = "warning",
) -> Server:
    """The server over any backend, not started."""
    return Server(create_app(backend, config, registry), log_level)


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


@contextmanager
def in_thread(server: Server, host: str = "127.0.0.1", port: int = 0) -> Iterator[str]:
    """Run a server in a thread of its own until the block ends; yields its address.

    Raises:
        OSError: The address cannot be listened on.
        RuntimeError: The server ended before it was ready; its log says why.
    """
    with listen(host, port) as bound:
        thread = threading.Thread(target=server.run, args=([bound],), daemon=True)
        thread.start()
        try:
            while not server.started:
                if not thread.is_alive():
                    raise RuntimeError("the server ended before it was ready")
                time.sleep(0.01)
            name = f"[{host}]" if ":" in host else host
            yield f"http://{name}:{bound.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


def serve(
    backend: Backend,
    config: ServingConfig | None = None,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
) -> None:
    """Serve until interrupted.

    Raises:
        OSError: The address cannot be listened on.
    """
    server = server_of(backend, config, log_level="info")
    with listen(host, port) as bound:
        server.run(sockets=[bound])
