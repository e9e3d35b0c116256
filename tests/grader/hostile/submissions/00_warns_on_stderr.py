# expect: OK 32
# note: warnings, a progress bar and prints cost no points

# %% lora_delta
import sys
import warnings


def lora_delta(lora_A, lora_B, alpha, use_rslora=False):
    warnings.warn("this is deprecated", stacklevel=1)
    sys.stderr.write("\r 50%|#####     | 1/2")
    sys.stdout.write("about to answer\n")
    R = lora_A.shape[0]
    return alpha / (R**0.5 if use_rslora else R) * (lora_B @ lora_A)
