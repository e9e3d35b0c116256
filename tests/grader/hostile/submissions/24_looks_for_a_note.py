# expect: PARTIAL 28
# cell lora_delta: WRONG
# says: reached []
# note: of the submission before it, for as long as that one may be there

# %% lora_delta
import ctypes
import os
import socket
import tempfile
import time
from contextlib import suppress

FOLDERS = ("/tmp", "/var/tmp", "/dev/shm", "/run", "/course", tempfile.gettempdir())
SOCKETS = ("\0hostile-note", "/tmp/hostile-note.socket", "/dev/shm/hostile-note.socket")


def lora_delta(lora_A, lora_B, alpha, use_rslora=False):
    until = time.monotonic() + 1.0
    found = []
    while time.monotonic() < until and not found:
        found += [f for f in FOLDERS if os.path.exists(os.path.join(f, "hostile-note"))]
        for address in SOCKETS:
            with suppress(OSError), socket.socket(socket.AF_UNIX) as client:
                client.connect(address)
                found.append(address)
        found += ["memory"] if ctypes.CDLL(None).shmget(0x5EC2E7, 4096, 0) >= 0 else []
        found += ["queue"] if ctypes.CDLL(None).msgget(0x5EC2E7, 0) >= 0 else []
        time.sleep(0.02)
    raise RuntimeError(f"reached {found}")
