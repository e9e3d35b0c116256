"""A planner's layout as arguments of Megatron-LM and Megatron-DeepSpeed, each with what it does.

Names are those of Megatron-LM's megatron/training/arguments.py in its 2025 form, and of
Megatron-DeepSpeed's megatron/arguments.py, a fork whose model has older names.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from labkit.model.config import ModelConfig
from labkit.training.config import TrainConfig
from labkit.training.parallel.memory_model import Layout

_SHARDING = {2: "optim_grads", 3: "optim_grads_params"}


@dataclass(frozen=True, slots=True)
class Flag:
    """One command-line argument; value None for a switch."""

    name: str
    value: str | int | float | None
    meaning: str

    def __str__(self) -> str:
        return self.name if self.value is None else f"{self.name} {self.value}"


def megatron_flags(
    config: ModelConfig, layout: Layout, T: int, train: TrainConfig | None = None
) -> list[Flag]:
    """Arguments of Megatron-LM's pretrain_gpt.py.

    Args:
        config: a dense pre-norm model with RMSNorm.
        layout: how it is spread.
        T: tokens of a sequence.
        train: settings of the optimizer and its schedule; None leaves them out.

    Raises:
        ValueError: the model is another one.
    """
    flags = [*_sizes(config, T), *_llama(config), *_layout_flags(layout)]
    return flags + ([] if train is None else _train_flags(train))


def megatron_deepspeed_flags(
    config: ModelConfig, layout: Layout, T: int, train: TrainConfig | None = None
) -> list[Flag]:
    """Arguments of Megatron-DeepSpeed's pretrain_gpt.py; `deepspeed_config` makes its file.

    Raises:
        ValueError: as `megatron_flags`.
    """
    zero = "ZeRO: 1 optimizer state, 2 gradients too, 3 parameters too; as in the file"
    flags = [*_sizes(config, T), *_forks_llama(config), *_common_layout(layout)]
    flags += [
        Flag("--deepspeed", None, "DeepSpeed's engine runs the step"),
        Flag("--deepspeed_config", "ds_config.json", "batch sizes, ZeRO and precision"),
        Flag("--zero-stage", layout.zero_stage, zero),
    ]
    if layout.pipeline == 1:
        meaning = "a plain model instead of DeepSpeed's PipelineModule; ZeRO 2 and 3 need that"
        flags.append(Flag("--no-pipeline-parallel", None, meaning))
    if layout.recompute == "full":
        flags += [
            Flag("--checkpoint-activations", None, "a block keeps its input only"),
            Flag("--deepspeed-activation-checkpointing", None, "recomputed by DeepSpeed's code"),
        ]
    return flags + ([] if train is None else _train_flags(train))


def command(launcher: str, flags: Sequence[Flag]) -> str:
    """`LAUNCHER pretrain_gpt.py` with one flag a line; data and tokenizer are left to add."""
    return " \\\n  ".join([f"{launcher} pretrain_gpt.py", *map(str, flags)])


def megatron_command(config: ModelConfig, layout: Layout, T: int) -> str:
    """`torchrun ... pretrain_gpt.py` of `megatron_flags`."""
    launcher = f"torchrun --nproc-per-node {layout.ranks}"
    return command(launcher, megatron_flags(config, layout, T))


def _sizes(config: ModelConfig, T: int) -> list[Flag]:
    """What both call alike.

    Raises:
        ValueError: the model is not a dense pre-norm one with RMSNorm.
    """
    if config.moe is not None or config.norm != "rms" or config.norm_position != "pre":
        raise ValueError("these flags describe dense pre-norm models with RMSNorm")
    flags = [
        Flag("--num-layers", config.num_layers, "L, blocks over all pipeline stages"),
        Flag("--hidden-size", config.width, "D, of the residual stream"),
        Flag("--ffn-hidden-size", config.ffn_width, "F, of SwiGLU's hidden layer"),
        Flag("--num-attention-heads", config.num_heads, "H, query heads over all tensor ranks"),
        Flag("--kv-channels", config.head_width, "K, width of one head"),
        Flag("--seq-length", T, "T, tokens of one sequence"),
        Flag("--max-position-embeddings", config.max_length, "longest sequence allowed"),
        Flag("--swiglu", None, "gated FFN instead of GELU"),
        Flag("--disable-bias-linear", None, "linears without bias"),
        Flag("--attention-dropout", 0.0, "none; left out, it is 0.1"),
        Flag("--hidden-dropout", 0.0, "none; left out, it is 0.1"),
    ]
    if not config.tie_embeddings:
        meaning = "the head has a matrix of its own"
        flags.append(Flag("--untie-embeddings-and-output-weights", None, meaning))
    return flags


def _llama(config: ModelConfig) -> list[Flag]:
    return [
        Flag("--group-query-attention", None, "key/value heads are shared by query heads"),
        Flag("--num-query-groups", config.num_kv_heads, "G, key/value heads"),
        Flag("--normalization", "RMSNorm", "instead of LayerNorm"),
        Flag("--norm-epsilon", config.norm_eps, "inside the root"),
        Flag("--position-embedding-type", "rope", "rotary positions instead of learned ones"),
        Flag("--rotary-base", int(config.rope_theta), "base of RoPE's wavelengths"),
    ]


def _forks_llama(config: ModelConfig) -> list[Flag]:
    theta = int(config.rope_theta)
    return [
        Flag("--num-key-value-heads", config.num_kv_heads, "G, key/value heads"),
        Flag("--normalization", "rmsnorm", "instead of layernorm"),
        Flag("--layernorm-epsilon", config.norm_eps, "inside the root of either norm"),
        Flag("--use-rotary-position-embeddings", None, "instead of learned positions"),
        Flag("--rotary-position-embeddings-theta", theta, "base of RoPE's wavelengths"),
    ]


def _common_layout(layout: Layout) -> list[Flag]:
    flags = [
        Flag("--tensor-model-parallel-size", layout.tensor, "t, ranks that share each matrix"),
        Flag("--pipeline-model-parallel-size", layout.pipeline, "p, stages run by 1F1B"),
        Flag("--micro-batch-size", layout.microbatch, "B, sequences in one pass"),
        Flag("--global-batch-size", layout.batch, "d B m; d and m follow from the ranks"),
        Flag("--bf16", None, "bfloat16 weights and activations, float32 optimizer"),
    ]
    if layout.tensor > 1:
        meaning = "the stream between sublayers is split by positions; same traffic, less memory"
        flags.append(Flag("--sequence-parallel", None, meaning))
    return flags


def _layout_flags(layout: Layout) -> list[Flag]:
    flags = _common_layout(layout)
    if layout.data > 1:
        meaning = "buckets of gradients travel while backward runs"
        flags.append(Flag("--overlap-grad-reduce", None, meaning))
    if layout.zero_stage:
        meaning = "ZeRO 1: optimizer state lies on one replica each"
        flags.append(Flag("--use-distributed-optimizer", None, meaning))
    if layout.zero_stage > 1:
        meaning = f"ZeRO {layout.zero_stage}: what else is sharded over the replicas"
        flags += [
            Flag("--use-megatron-fsdp", None, "Megatron's own fully sharded data parallelism"),
            Flag("--data-parallel-sharding-strategy", _SHARDING[layout.zero_stage], meaning),
            Flag("--no-gradient-accumulation-fusion", None, "gradients go to FSDP's buffers"),
        ]
    if layout.recompute == "full":
        flags += [
            Flag("--recompute-granularity", "full", "a block keeps its input only"),
            Flag("--recompute-method", "uniform", "every block alike"),
            Flag("--recompute-num-layers", 1, "blocks in one unit of recomputation"),
        ]
    return flags


def _train_flags(train: TrainConfig) -> list[Flag]:
    clip = 0.0 if train.clip_norm is None else train.clip_norm
    return [
        Flag("--train-iters", train.steps, "optimizer steps"),
        Flag("--lr", train.lr, "peak rate"),
        Flag("--min-lr", train.lr * train.min_lr_ratio, "rate of the last step"),
        Flag("--lr-decay-style", "cosine", "from peak to minimum"),
        Flag("--lr-warmup-iters", train.warmup_steps, "steps of linear rise"),
        Flag("--weight-decay", train.weight_decay, "of matrices, not of norms and biases"),
        Flag("--adam-beta1", train.betas[0], "decay of the mean"),
        Flag("--adam-beta2", train.betas[1], "decay of the mean square"),
        Flag("--clip-grad", clip, "largest global norm; 0 for none"),
        Flag("--seed", train.seed, "of weights and dropout"),
    ]
