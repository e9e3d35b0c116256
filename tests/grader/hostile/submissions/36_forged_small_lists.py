# expect: PARTIAL 28 or TAMPER <=28
# cell lora_delta: CRASH|WRONG|OOM|OUTPUT_LIMIT
# note: sixty megabytes of JSON that become gigabytes of empty lists

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


def answer(outputs):
    fields = {"event": "answer", "id": 1, "error": "", "outputs": {"dict": {"delta": outputs}}}
    return json.dumps({"dict": fields}).encode()


def npy(header, data=b""):
    header = header.encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + data


def lora_delta(lora_A, lora_B, alpha, use_rslora=False):
    text = answer({"list": []}).replace(b"[]", b"[" + b"[]," * 20_000_000 + b"[]]")
    send(frame(text))
