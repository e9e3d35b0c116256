"""Make `.venv-otter`, where `benchmarks/grading.py` runs otter-grader: its pins differ from ours.

It sees the course's environment after its own, so both grade with the same torch and labkit.
"""

import sys

import start

VENV = start.ROOT / ".venv-otter"
OTTER = "otter-grader[grading]==7.0.0"


def main():
    start.STAMPS.mkdir(exist_ok=True)
    try:
        start.venv_beside(VENV, OTTER, "setuptools")
    except start.SetupError as error:
        sys.exit(f"otter_env: {error}")


if __name__ == "__main__":
    main()
