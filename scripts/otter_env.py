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
        start.make_venv(VENV)
        start.pip(OTTER, "setuptools", venv=VENV)
    except start.SetupError as error:
        sys.exit(f"otter_env: {error}")
    [packages] = VENV.glob("lib/python*/site-packages")
    course = start.VENV / packages.relative_to(VENV)
    (packages / "course.pth").write_text(f"{course}\n{start.ROOT}\n")


if __name__ == "__main__":
    main()
