# expect: PARTIAL 28
# cell lora_delta: WRONG
# says: reached []
# note: by address, by name, to the cloud's metadata, to somebody on this machine

# %% lora_delta
import socket

PORT = int("@port@")
reached = []
TARGETS = [
    (socket.AF_INET, ("127.0.0.1", PORT)),
    (socket.AF_INET, ("169.254.169.254", 80)),
    (socket.AF_INET, ("192.0.2.1", 443)),
    (socket.AF_INET, ("example.invalid", 80)),
    (socket.AF_INET6, ("::1", PORT)),
    (socket.AF_UNIX, "/var/run/docker.sock"),
    (socket.AF_UNIX, "/run/dbus/system_bus_socket"),
]


def lora_delta(lora_A, lora_B, alpha, use_rslora=False):
    for family, address in TARGETS:
        try:
            with socket.socket(family, socket.SOCK_STREAM) as client:
                client.settimeout(0.2)
                client.connect(address)
                reached.append(address)
        except OSError:
            continue
    raise RuntimeError(f"reached {reached}")
