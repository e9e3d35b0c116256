"""Make `.venv-tritonserver`, where tests start Triton Inference Server: `make tritonserver`.

Client and server hold protobuf and numpy below the course's versions, so they get an environment of
their own. The server is the one inside nvidia-pytriton, of which only the binaries are used; it
runs without a GPU.
"""

import shutil
import sys
import sysconfig
from pathlib import Path

import start

VENV = start.ROOT / ".venv-tritonserver"
SERVER = "nvidia-pytriton==0.7.0"
CLIENT = "tritonclient[grpc,http]==2.73.0"
# The server's Python backend was built before numpy 2, whose arrays it reads wrongly.
PINNED = ("numpy==1.26.4", "protobuf==6.33.6", "grpcio==1.85.3", "geventhttpclient==2.6.1")
NEWEST_PYTHON = (3, 12)
STUB = "triton_python_backend_stub"


def check_python():
    if sys.version_info[:2] > NEWEST_PYTHON:
        raise start.SetupError(
            "Triton's Python backend needs numpy 1, which ends at Python {}.{}: name such a Python "
            "for .venv and this, make setup tritonserver PYTHON=python{}.{}.".format(
                *NEWEST_PYTHON, *NEWEST_PYTHON
            )
        )
    name = "libpython{}.{}".format(*sys.version_info[:2])
    system = f"/usr/lib/{sysconfig.get_config_var('MULTIARCH')}"
    folders = [Path(sysconfig.get_config_var("LIBDIR")), Path(system)]
    if not any((folder / f"{name}.so.1.0").exists() for folder in folders):
        raise start.SetupError(
            f"{name}.so.1.0 is missing, which holds Python for Triton's Python backend: install "
            f"it (on Debian and Ubuntu: apt install {name})."
        )


def install():
    check_python()
    start.venv_beside(VENV, CLIENT, *PINNED)
    start.pip("--no-deps", SERVER, venv=VENV)
    [package] = VENV.glob("lib/python*/site-packages/pytriton/tritonserver")
    version = "{}.{}".format(*sys.version_info[:2])
    stub = package / "backends" / "python" / STUB
    shutil.copy(package / "python_backend_stubs" / version / STUB, stub)
    stub.chmod(0o755)


def main():
    start.STAMPS.mkdir(exist_ok=True)
    inputs = start.sources("constraints.txt", "scripts/tritonserver_env.py")
    title = f"Install {SERVER} and {CLIENT} into {VENV.name}"
    try:
        start.Step("tritonserver", title, inputs, install)()
    except start.SetupError as error:
        sys.exit(f"make tritonserver: {error}")


if __name__ == "__main__":
    main()
