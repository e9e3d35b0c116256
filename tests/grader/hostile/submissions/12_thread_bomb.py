# expect: PARTIAL 28 or OK 32
# cell lora_delta: CRASH|WRONG|OOM|TIMEOUT|OK
# spares: rlimits
# note: threads count as processes

# %% lora_delta
import threading
import time


def lora_delta(lora_A, lora_B, alpha, use_rslora=False):
    for _ in range(2000):
        threading.Thread(target=time.sleep, args=(60,)).start()
    R = lora_A.shape[0]
    return alpha / (R**0.5 if use_rslora else R) * (lora_B @ lora_A)
