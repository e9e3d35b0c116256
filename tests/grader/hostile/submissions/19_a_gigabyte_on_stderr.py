# expect: PARTIAL 28
# cell lora_delta: OUTPUT_LIMIT
# says: printed more than
# note: written past Python, to both descriptors

# %% lora_delta
import os


def lora_delta(lora_A, lora_B, alpha, use_rslora=False):
    part = bytes(10**6)
    for _ in range(1000):
        os.write(2, part)
        os.write(1, part)
    R = lora_A.shape[0]
    return alpha / (R**0.5 if use_rslora else R) * (lora_B @ lora_A)
