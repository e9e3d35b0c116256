"""Make `.venv-triton`, where Triton's interpreter runs our kernels without a GPU: `make triton`.

A torch for CUDA brings its own version of Triton, so no version of it can be pinned for everybody.
"""

import sys

import start

VENV = start.ROOT / ".venv-triton"
TRITON = "triton==3.9.0"


def main():
    start.STAMPS.mkdir(exist_ok=True)
    inputs = start.sources("constraints.txt", "scripts/triton_env.py")
    title = f"Install {TRITON} into {VENV.name}"
    try:
        start.Step("triton", title, inputs, lambda: start.venv_beside(VENV, TRITON))()
    except start.SetupError as error:
        sys.exit(f"make triton: {error}")


if __name__ == "__main__":
    main()
