# expect: OK 32
# note: the same while the cells run, with every descriptor it was given kept open

# %% lora_delta
import os
import signal
import sys

if os.fork() == 0:
    os.setsid()
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    for fd in range(3, 64):
        try:
            os.set_inheritable(fd, True)
        except OSError:
            continue
    os.execv(sys.executable, ["hostile-leftover", "-c", "import time; time.sleep(900)"])


def lora_delta(lora_A, lora_B, alpha, use_rslora=False):

    R = lora_A.shape[0]
    return alpha / (R**0.5 if use_rslora else R) * (lora_B @ lora_A)
