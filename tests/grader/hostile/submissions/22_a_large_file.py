# expect: PARTIAL 28
# cell lora_delta: WRONG
# says: Errno
# note: ten gigabytes do not fit into its scratch folder

# %% lora_delta
import os
import tempfile


def lora_delta(lora_A, lora_B, alpha, use_rslora=False):
    with open(os.path.join(tempfile.gettempdir(), "hostile-escape-large"), "wb") as file:
        for _ in range(1000):
            file.write(bytes(10**7))
