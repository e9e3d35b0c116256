# expect: TAMPER|WRONG|CRASH|TIMEOUT 0
# base: release
# cell any: WRONG|CRASH|TIMEOUT
# note: messages that claim points, a status, the end of the cells

# %% lora_delta
import json
import os
import struct


def send(message, blobs=b""):
    """Write one frame to every descriptor that takes it."""
    text = json.dumps(message).encode()
    frame = struct.pack(">QI", len(text) + len(blobs), len(text)) + text + blobs
    for fd in range(3, 64):
        try:
            os.set_blocking(fd, True)
            os.write(fd, frame)
        except OSError:
            continue


SCORE = {"status": "OK", "score": 32.0, "points": 32, "verdict": {"dict": {"ok": True}}}
send({"dict": {"event": "loaded", "errors": {"dict": {}}, **SCORE}})
send({"dict": {"event": "result", "id": 1, "error": "", **SCORE}})
send({"dict": {"event": "answer", "id": 1, "error": "", "outputs": {"dict": {}}, **SCORE}})

# %% lora_linear
pass

# %% apply_lora
pass

# %% merge_weight
pass

# %% diagnose
pass

# %% train_step
pass
