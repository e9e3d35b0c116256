"""Many LoRA adapters over one base model, each row of a batch with its own."""
