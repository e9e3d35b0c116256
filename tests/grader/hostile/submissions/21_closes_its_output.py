# expect: OK 32
# note: standard input, output and error are closed, then point elsewhere

# %% lora_delta
import os
import sys
from contextlib import suppress


def lora_delta(lora_A, lora_B, alpha, use_rslora=False):
    for fd in (0, 1, 2):
        with suppress(OSError):
            os.close(fd)
    os.dup2(os.open("/dev/null", os.O_RDWR), 1)
    sys.stdout = sys.stderr = sys.__stdout__ = None
    R = lora_A.shape[0]
    return alpha / (R**0.5 if use_rslora else R) * (lora_B @ lora_A)
