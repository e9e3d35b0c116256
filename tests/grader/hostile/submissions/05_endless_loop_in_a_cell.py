# expect: PARTIAL 28
# cell lora_delta: TIMEOUT
# says: its cell stopped the program
# note: the loop is outside any function: the cell is left out and the others are graded

# %% lora_delta
while True:
    pass
