# expect: OK 32
# note: a port it opens is open in its box alone and closes with it

# %% lora_delta
import socket
from contextlib import suppress

kept = []


def lora_delta(lora_A, lora_B, alpha, use_rslora=False):
    with suppress(OSError):
        kept.append(socket.create_server(("", 47813)))
    R = lora_A.shape[0]
    return alpha / (R**0.5 if use_rslora else R) * (lora_B @ lora_A)
