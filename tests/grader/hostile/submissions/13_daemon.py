# expect: OK 32
# note: a process that left its parent, session and terminal ends with its box

# %% lora_delta
import os
import sys


def lora_delta(lora_A, lora_B, alpha, use_rslora=False):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os.execv(sys.executable, ["hostile-leftover", "-c", "import time; time.sleep(900)"])
        os._exit(0)
    R = lora_A.shape[0]
    return alpha / (R**0.5 if use_rslora else R) * (lora_B @ lora_A)
