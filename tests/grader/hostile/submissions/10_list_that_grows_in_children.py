# expect: PARTIAL 28
# cell lora_delta: OOM
# says: MiB of memory
# note: each of its processes takes little

# %% lora_delta
import os
import time


def lora_delta(lora_A, lora_B, alpha, use_rslora=False):
    for _ in range(8):
        if os.fork() == 0:
            kept = bytearray(os.urandom(2**20)) * 200
            time.sleep(60)
            os._exit(len(kept) % 2)
    time.sleep(60)
