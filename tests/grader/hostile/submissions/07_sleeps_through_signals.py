# expect: PARTIAL 28
# cell lora_delta: TIMEOUT
# says: longer than
# note: uses no processor time and ignores what it may

# %% lora_delta
import signal
import time


def lora_delta(lora_A, lora_B, alpha, use_rslora=False):
    for number in range(1, 32):
        try:
            signal.signal(number, signal.SIG_IGN)
        except OSError:
            continue
    while True:
        time.sleep(1000)
