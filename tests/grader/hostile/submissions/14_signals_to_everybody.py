# expect: OK 32 or PARTIAL 28
# cell lora_delta: OK|CRASH
# spares: rlimits
# note: reaches its own box at most; not run where nothing is sure to stand in its way

# %% lora_delta
import os
import signal


def lora_delta(lora_A, lora_B, alpha, use_rslora=False):
    for number in (signal.SIGTERM, signal.SIGKILL):
        for pid in (-1, 1, 2):
            try:
                os.kill(pid, number)
            except OSError:
                continue
    R = lora_A.shape[0]
    return alpha / (R**0.5 if use_rslora else R) * (lora_B @ lora_A)
