# expect: PARTIAL 28
# cell lora_delta: OOM|TIMEOUT
# note: catches every MemoryError and goes on

# %% lora_delta
def lora_delta(lora_A, lora_B, alpha, use_rslora=False):
    hoard = []
    while True:
        try:
            hoard.append(bytearray(10**8))
        except MemoryError:
            continue
