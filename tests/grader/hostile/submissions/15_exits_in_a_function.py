# expect: PARTIAL 28
# cell lora_delta: CRASH
# says: the process ended
# note: status 0, as if all were well; the rest is graded in a new process

# %% lora_delta
import os


def lora_delta(lora_A, lora_B, alpha, use_rslora=False):
    os._exit(0)
