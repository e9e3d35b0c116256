"""Make `.venv-guidellm`, where a test loads our server with GuideLLM: `make guidellm`."""

import sys

import start

VENV = start.ROOT / ".venv-guidellm"
GUIDELLM = "guidellm==0.8.1"
# All it needs but what the course has: torch, transformers, datasets and the like.
NEEDS = (
    "click==8.4.2",
    "culsans==0.10.0",
    "eval_type_backport==0.4.0",
    "faker==40.63.0",
    "ftfy==6.3.1",
    "h2==4.4.1",
    "loguru==0.7.3",
    "pydantic-settings==2.16.3",
    "sanic==25.12.1",
    "uvloop==0.23.0",
    "websockets==17.4",
)


def install():
    start.venv_beside(VENV, *NEEDS)
    start.pip("--no-deps", GUIDELLM, venv=VENV)


def main():
    start.STAMPS.mkdir(exist_ok=True)
    inputs = start.sources("constraints.txt", "scripts/guidellm_env.py")
    try:
        start.Step("guidellm", f"Install {GUIDELLM} into {VENV.name}", inputs, install)()
    except start.SetupError as error:
        sys.exit(f"make guidellm: {error}")


if __name__ == "__main__":
    main()
