# expect: OK 32
# note: for another submission that is graded at the same time, by every way there might be

# %% lora_delta
import ctypes
import os
import socket
import tempfile
import time
from contextlib import suppress

kept = []
FOLDERS = ("/tmp", "/var/tmp", "/dev/shm", "/run", "/course", tempfile.gettempdir())
SOCKETS = ("\0hostile-note", "/tmp/hostile-note.socket", "/dev/shm/hostile-note.socket")


def leave():
    for folder in FOLDERS:
        with suppress(OSError), open(os.path.join(folder, "hostile-note"), "w") as file:
            file.write("42")
            os.chmod(file.name, 0o666)
    for address in SOCKETS:
        with suppress(OSError):
            kept.append(socket.socket(socket.AF_UNIX))
            kept[-1].bind(address)
            kept[-1].listen()
    ctypes.CDLL(None).shmget(0x5EC2E7, 4096, 0o1666)
    ctypes.CDLL(None).msgget(0x5EC2E7, 0o1666)


def lora_delta(lora_A, lora_B, alpha, use_rslora=False):
    if not kept:
        kept.append(True)
        leave()
        time.sleep(0.5)
    R = lora_A.shape[0]
    return alpha / (R**0.5 if use_rslora else R) * (lora_B @ lora_A)
