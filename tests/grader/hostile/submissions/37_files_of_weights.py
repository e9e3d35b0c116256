# expect: OK 32
# note: files beside the notebook that run code when torch, pickle or numpy load them

import pickle

import numpy as np

from grader.notebooks import write_notebook


class Payload:
    def __reduce__(self):
        return (open, ("/tmp/hostile-escape-weights", "w"))


def build(folder, solved, release):
    write_notebook(folder / "lab03_lora.ipynb", solved)
    for name in ("adapter_model.bin", "model.pt", "lab03_lora.pkl", "envelope.json"):
        (folder / name).write_bytes(pickle.dumps(Payload()))
    np.save(folder / "answers.npy", np.array([Payload()], dtype=object))
    (folder / "model.safetensors").write_bytes(b"\xff" * 8 + b"{}")
