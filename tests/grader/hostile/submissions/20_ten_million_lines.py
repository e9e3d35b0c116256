# expect: PARTIAL 28
# cell lora_delta: OUTPUT_LIMIT
# says: printed more than
# note: many small writes

# %% lora_delta
import sys


def lora_delta(lora_A, lora_B, alpha, use_rslora=False):
    lines = "a line\n" * 10_000
    for _ in range(1000):
        sys.stdout.write(lines)
    R = lora_A.shape[0]
    return alpha / (R**0.5 if use_rslora else R) * (lora_B @ lora_A)
