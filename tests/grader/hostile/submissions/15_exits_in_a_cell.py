# expect: PARTIAL 28
# cell lora_delta: CRASH
# says: its cell stopped the program
# note: the cell is left out of the next process

# %% lora_delta
import os

os._exit(0)
