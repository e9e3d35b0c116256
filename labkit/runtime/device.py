"""Which device and which number format to compute in."""

from pathlib import Path

import torch

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_BF16_CPU_FLAGS = {"avx512_bf16", "amx_bf16"}


def choose_device(name: str | torch.device = "auto") -> torch.device:
    """The device called `name`; "auto" takes a CUDA GPU where there is one, else the CPU.

    Raises:
        ValueError: no such device on this machine.
    """
    if isinstance(name, str) and name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f'device={name!r} is unknown: use "auto", "cpu" or "cuda"') from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f'device={name!r}, but torch sees no CUDA GPU: use "cpu" or "auto"')
    return device


def choose_dtype(
    name: str | torch.dtype = "auto", device: torch.device | None = None
) -> torch.dtype:
    """The number format called `name`; "auto" takes bfloat16 where the device multiplies it fast.

    Fast means any CUDA GPU, or a CPU with avx512_bf16 or AMX; elsewhere bfloat16 would be emulated,
    so "auto" means float32 there.

    Raises:
        ValueError: `name` is none of "auto", "float32", "bfloat16", "float16".
    """
    if isinstance(name, torch.dtype):
        name = str(name).removeprefix("torch.")
    if name == "auto":
        device = device or choose_device()
        fast = device.type == "cuda" or _cpu_multiplies_bf16()
        return torch.bfloat16 if fast else torch.float32
    if name not in DTYPES:
        raise ValueError(f"dtype={name!r} is unknown: use one of {['auto', *DTYPES]}")
    return DTYPES[name]


def _cpu_multiplies_bf16() -> bool:
    """Linux lists the instruction sets; a system that does not is taken to lack them."""
    cpuinfo = Path("/proc/cpuinfo")
    if not cpuinfo.exists():
        return False
    return bool(_BF16_CPU_FLAGS & set(cpuinfo.read_text(encoding="utf-8").split()))
