"""Compiling the kernels on the machine they run on, once for each version of them."""

import ctypes
import functools
import hashlib
import shutil
import subprocess
from pathlib import Path

import torch

from labkit.runtime.cache import atomic_path, cache_dir, locked

FOLDER = Path(__file__).parent
COMPILERS = ("g++", "clang++", "c++")
FLAGS = ("-std=c++17", "-O3", "-march=native", "-fopenmp", "-shared", "-fPIC")
NEEDED = ("avx512f", "avx512bw", "avx512vl", "avx512_vnni", "avx512_bf16")


class NoKernelsError(RuntimeError):
    """The kernels cannot run here; the message says why. PyTorch's own operations can."""


@functools.cache
def library() -> ctypes.CDLL:
    """The compiled kernels, from the cache or compiled now (about two seconds).

    They share the OpenMP runtime that PyTorch has loaded, so that both use one team of threads:
    two teams on the same cores would wait for each other.

    Raises:
        NoKernelsError: the processor lacks an instruction set, there is no compiler, or it fails.
    """
    _check_processor()
    compiler = next((path for name in COMPILERS if (path := shutil.which(name))), None)
    if compiler is None:
        raise NoKernelsError(f"none of the compilers {', '.join(COMPILERS)} is installed")
    sources = [path.read_text() for path in sorted(FOLDER.glob("*.[ch]*"))]
    identity = "\n".join((*sources, *FLAGS, compiler, _processor()))
    name = f"kernels-{hashlib.blake2b(identity.encode(), digest_size=8).hexdigest()}.so"
    built = cache_dir() / name
    with locked(cache_dir() / f"{name}.lock"):
        if not built.is_file():
            _compile(compiler, built)
    return ctypes.CDLL(str(built))


def _compile(compiler: str, built: Path) -> None:
    with atomic_path(built) as path:
        command = [compiler, *FLAGS, str(FOLDER / "kernels.cpp"), "-o", str(path)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            first = next((line for line in done.stderr.splitlines() if "error" in line), "")
            raise NoKernelsError(f"{compiler} failed: {first or done.stderr[:200]}")


def _check_processor() -> None:
    flags = _processor().split()
    if missing := [name for name in NEEDED if name not in flags]:
        raise NoKernelsError(f"this processor has no {', '.join(missing)}")
    assert torch.get_num_threads() >= 1  # PyTorch's OpenMP is loaded before ours


def _processor() -> str:
    """The instruction sets of the first core, as Linux lists them; empty elsewhere."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2] for line in lines if line.startswith("flags")), "")
