"""A planner's layout as settings of Megatron-LM and DeepSpeed, each with what it does."""

import json
from dataclasses import dataclass

from labkit.model.config import ModelConfig
from labkit.training.parallel.memory_model import Layout


@dataclass(frozen=True, slots=True)
class Flag:
    """One command-line argument; value None for a switch."""

    name: str
    value: str | int | float | None
    meaning: str

    def __str__(self) -> str:
        return self.name if self.value is None else f"{self.name} {self.value}"


def megatron_flags(config: ModelConfig, layout: Layout, T: int) -> list[Flag]:
    """Arguments of Megatron-LM's pretrain_gpt.py for this model and layout.

    Raises:
        ValueError: the layout shards gradients or parameters, or the model is not a dense
            pre-norm one with RMSNorm.
    """
    if layout.zero_stage > 1:
        raise ValueError(
            f"zero_stage={layout.zero_stage}: Megatron's distributed optimizer is stage 1; "
            "use deepspeed_config"
        )
    if config.moe is not None or config.norm != "rms" or config.norm_position != "pre":
        raise ValueError("these flags describe dense pre-norm models with RMSNorm")
    return [*_model_flags(config, T), *_layout_flags(layout)]


def _model_flags(config: ModelConfig, T: int) -> list[Flag]:
    flags = [
        Flag("--num-layers", config.num_layers, "L, blocks over all pipeline stages"),
        Flag("--hidden-size", config.width, "D, of the residual stream"),
        Flag("--ffn-hidden-size", config.ffn_width, "F, of SwiGLU's hidden layer"),
        Flag("--num-attention-heads", config.num_heads, "H, query heads over all tensor ranks"),
        Flag("--group-query-attention", None, "key/value heads are shared by query heads"),
        Flag("--num-query-groups", config.num_kv_heads, "G, key/value heads"),
        Flag("--kv-channels", config.head_width, "K, width of one head"),
        Flag("--seq-length", T, "T, tokens of one sequence"),
        Flag("--max-position-embeddings", config.max_length, "longest sequence allowed"),
        Flag("--swiglu", None, "gated FFN instead of GELU"),
        Flag("--normalization", "RMSNorm", "instead of LayerNorm"),
        Flag("--norm-epsilon", config.norm_eps, "inside the root"),
        Flag("--position-embedding-type", "rope", "rotary positions instead of learned ones"),
        Flag("--rotary-base", int(config.rope_theta), "base of RoPE's wavelengths"),
        Flag("--disable-bias-linear", None, "linears without bias"),
    ]
    if not config.tie_embeddings:
        meaning = "the head has a matrix of its own"
        flags.append(Flag("--untie-embeddings-and-output-weights", None, meaning))
    return flags


def _layout_flags(layout: Layout) -> list[Flag]:
    flags = [
        Flag("--tensor-model-parallel-size", layout.tensor, "t, ranks that share each matrix"),
        Flag("--pipeline-model-parallel-size", layout.pipeline, "p, stages run by 1F1B"),
        Flag("--micro-batch-size", layout.microbatch, "B, sequences in one pass"),
        Flag("--global-batch-size", layout.batch, "d B m; Megatron derives d and m"),
        Flag("--bf16", None, "bfloat16 weights and activations, float32 optimizer"),
    ]
    if layout.tensor > 1:
        meaning = "the stream between sublayers is split by positions; same traffic, less memory"
        flags.append(Flag("--sequence-parallel", None, meaning))
    if layout.zero_stage == 1:
        meaning = "ZeRO 1: optimizer state lies on one replica each"
        flags.append(Flag("--use-distributed-optimizer", None, meaning))
    if layout.recompute == "full":
        flags += [
            Flag("--recompute-granularity", "full", "a block keeps its input only"),
            Flag("--recompute-method", "uniform", "every block alike"),
            Flag("--recompute-num-layers", 1, "blocks in one unit of recomputation"),
        ]
    return flags


def megatron_command(config: ModelConfig, layout: Layout, T: int) -> str:
    """`torchrun ... pretrain_gpt.py` with one flag a line; data and tokenizer are left to add."""
    start = f"torchrun --nproc-per-node {layout.ranks} pretrain_gpt.py"
    return " \\\n  ".join([start, *map(str, megatron_flags(config, layout, T))])


def deepspeed_config(layout: Layout) -> dict[str, object]:
    """DeepSpeed's JSON configuration; its two batch sizes and the steps between must agree.

    Raises:
        ValueError: the layout has tensor or pipeline parallelism, which the JSON cannot ask for.
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
        "bf16": {"enabled": True},
        "zero_optimization": {
            "stage": layout.zero_stage,
            "overlap_comm": True,
            "reduce_bucket_size": 25_000_000,
        },
    }


def deepspeed_json(layout: Layout) -> str:
    """The file's text."""
    return json.dumps(deepspeed_config(layout), indent=2)


DEEPSPEED_MEANINGS = {
    "train_batch_size": "d B m, sequences in one optimizer step over all ranks",
    "train_micro_batch_size_per_gpu": "B, sequences in one pass of one rank",
    "gradient_accumulation_steps": "m, passes before a step",
    "bf16": "bfloat16 weights and gradients, float32 optimizer state",
    "zero_optimization": "stage: what is divided by d (1 optimizer, 2 gradients too, 3 parameters "
    "too); overlap_comm: reduce while backward runs; reduce_bucket_size: elements sent together",
}
