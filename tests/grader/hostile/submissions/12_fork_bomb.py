# expect: PARTIAL 28
# cell lora_delta: CRASH|WRONG|OOM|TIMEOUT
# spares: rlimits
# note: doubles itself up to 4096 processes; without a user of its own it would reach the machine's

# %% lora_delta
import os
import time


def lora_delta(lora_A, lora_B, alpha, use_rslora=False):
    for _ in range(12):
        os.fork()
    time.sleep(60)
