# expect: PARTIAL 28 or TAMPER <=28
# cell lora_delta: CRASH|WRONG|OOM|OUTPUT_LIMIT
# note: announces a frame that is as long as it can be and never comes

# %% lora_delta
import os
import struct


def frame(text, blobs=b""):
    return struct.pack(">QI", len(text) + len(blobs), len(text)) + text + blobs


def send(data):
    """Write to every descriptor that takes it, then wait for the end."""
    for fd in range(3, 64):
        try:
            os.set_blocking(fd, True)
            left = memoryview(data)
            while left:
                left = left[os.write(fd, left) :]
        except OSError:
            continue
    os._exit(0)


def lora_delta(lora_A, lora_B, alpha, use_rslora=False):
    send(struct.pack(">QI", 2**63, 2**31) + b"x" * 100)
