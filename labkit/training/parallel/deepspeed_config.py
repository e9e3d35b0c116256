"""A planner's layout as DeepSpeed's JSON configuration, each key with what it does."""

import json

from labkit.training.parallel.memory_model import Layout

MEANINGS = {
    "train_batch_size": "d B m, sequences in one optimizer step over all ranks",
    "train_micro_batch_size_per_gpu": "B, sequences in one pass of one rank",
    "gradient_accumulation_steps": "m, passes before a step",
    "gradient_clipping": "largest global norm; 0 for none",
    "bf16": "bfloat16 weights and gradients, float32 optimizer state",
    "zero_optimization.stage": "what is divided by d: 1 optimizer, 2 gradients too, 3 parameters",
    "zero_optimization.overlap_comm": "reduce while backward runs",
    "zero_optimization.reduce_bucket_size": "elements sent together, and the buffer for them",
}


def deepspeed_config(layout: Layout, *, clip_norm: float | None = 1.0) -> dict[str, object]:
    """DeepSpeed's configuration; its two batch sizes and the steps between must agree.

    Raises:
        ValueError: the layout has tensor or pipeline parallelism, which the file cannot ask for.
    """
    if layout.tensor > 1 or layout.pipeline > 1:
        raise ValueError(
            f"tensor={layout.tensor}, pipeline={layout.pipeline}: DeepSpeed's file sets data "
            "parallelism only; the model code builds the rest, as in Megatron-DeepSpeed"
        )
    return {
        "train_batch_size": layout.batch,
        "train_micro_batch_size_per_gpu": layout.microbatch,
        "gradient_accumulation_steps": layout.microbatches,
        "gradient_clipping": 0.0 if clip_norm is None else clip_norm,
        "bf16": {"enabled": True},
        "zero_optimization": {
            "stage": layout.zero_stage,
            "overlap_comm": True,
            "reduce_bucket_size": 25_000_000,
        },
    }


def deepspeed_json(layout: Layout, *, clip_norm: float | None = 1.0) -> str:
    """The file's text."""
    return json.dumps(deepspeed_config(layout, clip_norm=clip_norm), indent=2)
