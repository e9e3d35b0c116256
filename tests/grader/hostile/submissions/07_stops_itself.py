# expect: PARTIAL 28 or OK 32
# cell lora_delta: TIMEOUT|OK
# note: a stopped process neither ends nor answers; the first of its namespace cannot be stopped

# %% lora_delta
import os
import signal


def lora_delta(lora_A, lora_B, alpha, use_rslora=False):
    os.kill(os.getpid(), signal.SIGSTOP)
    R = lora_A.shape[0]
    return alpha / (R**0.5 if use_rslora else R) * (lora_B @ lora_A)
