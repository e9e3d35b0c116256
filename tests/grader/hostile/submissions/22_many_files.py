# expect: PARTIAL 28
# cell lora_delta: WRONG|TIMEOUT|OOM
# note: files without content, as many as fit into the time

# %% lora_delta
import os
import tempfile
import time


def lora_delta(lora_A, lora_B, alpha, use_rslora=False):
    until = time.monotonic() + 1.2
    folder = tempfile.mkdtemp(prefix="hostile-escape-")
    while time.monotonic() < until:
        open(os.path.join(folder, str(time.monotonic_ns())), "w").close()
    return folder
