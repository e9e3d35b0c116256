# expect: PARTIAL 28
# cell lora_delta: OUTPUT_LIMIT|TIMEOUT|WRONG
# note: rich output in a loop, where a notebook would store each

# %% lora_delta
def lora_delta(lora_A, lora_B, alpha, use_rslora=False):
    from IPython.display import HTML, display

    while True:
        display(HTML("<b>" + "x" * 10**5 + "</b>"), display_id=True)
