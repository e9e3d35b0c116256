# expect: PARTIAL 28
# cell lora_delta: OUTPUT_LIMIT
# says: printed more than
# note: no line ends, so no count of lines stops it

# %% lora_delta
import sys


def lora_delta(lora_A, lora_B, alpha, use_rslora=False):
    part = "x" * 10**6
    for _ in range(1000):
        sys.stdout.write(part)
    R = lora_A.shape[0]
    return alpha / (R**0.5 if use_rslora else R) * (lora_B @ lora_A)
