# expect: PARTIAL 28 or TAMPER <=28
# cell lora_delta: CRASH|WRONG|OOM|OUTPUT_LIMIT
# note: an error message of ten megabytes, with a page's markup and a terminal's commands

# %% lora_delta
import json
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
    error = "<script>alert(1)</script>\x1b]0;owned\x07" * 250_000
    fields = {"event": "answer", "id": 1, "error": error, "outputs": None}
    send(frame(json.dumps({"dict": fields}).encode()))
