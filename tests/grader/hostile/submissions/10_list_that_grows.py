# expect: PARTIAL 28
# cell lora_delta: OOM
# says: MiB of memory
# note: takes memory bit by bit

# %% lora_delta
def lora_delta(lora_A, lora_B, alpha, use_rslora=False):
    hoard = []
    while True:
        hoard.append(bytearray(10**7))
