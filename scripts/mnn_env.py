"""Make `.venv-mnn`, where `benchmarks/landscape.py` runs MNN-LLM: `make mnn`.

It sees the course's torch and transformers, with which MNN's exporter reads a model's folder.
"""

import sys

import start

VENV = start.ROOT / ".venv-mnn"
MNN = "MNN==3.6.1"
EXPORTER = "llmexport==0.0.5"
NEEDS = (
    "onnx==1.23.2",
    "onnxslim==0.1.98",
    "onnxruntime==1.32.0",
    "sentencepiece==0.2.3",
    "yaspin==3.5.1",
)


def install():
    start.venv_beside(VENV, MNN, *NEEDS)
    start.pip("--no-deps", EXPORTER, venv=VENV)
    [packages] = VENV.glob("lib/python*/site-packages")
    # The exporter imports its own parts as if its folder were on the path.
    (packages / "llmexport.pth").write_text(f"{packages / 'llmexport'}\n")
    # On import, MNN's converter installs a logging client into whatever `pip` comes first on the
    # path, to report its use; without this module it converts and stays silent.
    (packages / "MNN" / "tools" / "utils" / "log.py").unlink(missing_ok=True)


def main():
    start.STAMPS.mkdir(exist_ok=True)
    inputs = start.sources("constraints.txt", "scripts/mnn_env.py")
    try:
        start.Step("mnn", f"Install {MNN} into {VENV.name}", inputs, install)()
    except start.SetupError as error:
        sys.exit(f"make mnn: {error}")


if __name__ == "__main__":
    main()
