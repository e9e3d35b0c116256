# expect: OK 32
# note: threads that never end are not waited for

# %% lora_delta
import threading
import time

running = []


def forever():
    while True:
        time.sleep(0.01)


def lora_delta(lora_A, lora_B, alpha, use_rslora=False):
    if not running:
        for _ in range(3):
            running.append(threading.Thread(target=forever, daemon=False))
            running[-1].start()
    R = lora_A.shape[0]
    return alpha / (R**0.5 if use_rslora else R) * (lora_B @ lora_A)
