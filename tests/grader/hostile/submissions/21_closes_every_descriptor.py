# expect: PARTIAL 28
# cell lora_delta: CRASH
# note: also those that answers go through: this question is lost, no other

# %% lora_delta
import os


def lora_delta(lora_A, lora_B, alpha, use_rslora=False):
    os.closerange(0, 256)
    R = lora_A.shape[0]
    return alpha / (R**0.5 if use_rslora else R) * (lora_B @ lora_A)
