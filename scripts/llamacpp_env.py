"""Make `.venv-llamacpp`, where `benchmarks/inference.py` runs llama.cpp: `make llamacpp`.

llama-cpp-python comes as source and is compiled here, for this processor, in about four minutes on
two cores; it needs a C++ compiler (cmake and ninja come by pip where the system has none).
"""

import os
import sys

import start

VENV = start.ROOT / ".venv-llamacpp"
LLAMACPP = "llama-cpp-python==0.3.36"
# The instructions of the processor it is compiled on, but for AMX: with them this version ends in
# a protection fault on the virtual machine where the benchmarks run.
FLAGS = {
    "CMAKE_ARGS": "-DGGML_NATIVE=ON",
    "CFLAGS": "-mno-amx-tile -mno-amx-int8 -mno-amx-bf16",
    "CXXFLAGS": "-mno-amx-tile -mno-amx-int8 -mno-amx-bf16",
}


def install():
    start.make_venv(VENV)
    os.environ.update(FLAGS)
    start.pip("--no-cache-dir", "--force-reinstall", LLAMACPP, venv=VENV)


def main():
    start.STAMPS.mkdir(exist_ok=True)
    inputs = start.sources("scripts/llamacpp_env.py")
    try:
        start.Step("llamacpp", f"Compile {LLAMACPP} into {VENV.name}", inputs, install)()
    except start.SetupError as error:
        sys.exit(f"make llamacpp: {error}")


if __name__ == "__main__":
    main()
