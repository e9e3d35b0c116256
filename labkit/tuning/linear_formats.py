"""LoRA, IA3 and AdaLoRA in PEFT's files."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from labkit.tuning import adalora, ia3, lora
from labkit.tuning.adalora import AdaLoraConfig
from labkit.tuning.file_format import PREFIX, Fields, Format
from labkit.tuning.ia3 import Ia3Config
from labkit.tuning.lora import LoraConfig

_PLAIN_INITS = (True, False, "gaussian", "orthogonal")  # those that leave the base's weights alone


def named(model: nn.Module, *parts: str) -> dict[str, Tensor]:
    """Parameters one of whose name's parts is given, under the names that PEFT's wrapper has."""
    return {
        PREFIX + name: parameter
        for name, parameter in model.named_parameters()
        if not set(parts).isdisjoint(name.split("."))
    }


def _target_fields(adapters: dict[str, Any], targets: tuple[str, ...] | str) -> list[str]:
    return sorted(adapters) if isinstance(targets, str) else list(targets)


def _targets(value: str | list[str] | None) -> tuple[str, ...] | str:
    if value is None:
        return ()
    return value if isinstance(value, str) else tuple(value)


def _lora_tensors(model: nn.Module, config: LoraConfig) -> dict[str, Tensor]:
    biases = {
        PREFIX + name: parameter
        for name, parameter in model.named_parameters()
        if lora.trains_bias(config, name)
    }
    return named(model, "lora_A", "lora_B", "lora_magnitude_vector") | biases


def _lora_fields(model: nn.Module, config: LoraConfig) -> Fields:
    adapters = lora.layers(model)
    for name, layer in adapters.items():
        rank, dora = layer.lora_A.weight.shape[0], layer.method == "DoRA"
        if (rank, layer.scaling, dora) != (config.rank, config.scaling, config.use_dora):
            raise ValueError(
                f"{name} has rank {rank} and scaling {layer.scaling}{' (DoRA)' * dora}; the "
                f"config says {config.rank} and {config.scaling}{' (DoRA)' * config.use_dora}: "
                "give the one that apply was given"
            )
    alpha = float(config.alpha)
    return {
        "r": config.rank,
        "lora_alpha": int(alpha) if alpha.is_integer() else alpha,
        "lora_dropout": config.dropout,
        "target_modules": _target_fields(adapters, config.target_modules),
        "bias": config.bias,
        "use_rslora": config.use_rslora,
        "use_dora": config.use_dora,
        "fan_in_fan_out": False,
        "init_lora_weights": True,
        "modules_to_save": None,
    }


def _lora_config(fields: Fields) -> LoraConfig:
    init = fields.pop("init_lora_weights", True)
    if init not in _PLAIN_INITS:
        raise ValueError(f"init_lora_weights={init!r} changes the base model's weights")
    return LoraConfig(
        rank=fields.pop("r"),
        alpha=fields.pop("lora_alpha"),
        dropout=fields.pop("lora_dropout", 0.0),
        target_modules=_targets(fields.pop("target_modules")),
        bias=fields.pop("bias", "none"),
        use_rslora=fields.pop("use_rslora", False),
        use_dora=fields.pop("use_dora", False),
    )


def _ia3_fields(model: nn.Module, config: Ia3Config) -> Fields:
    adapters = ia3.layers(model)
    feedforward = {name: layer for name, layer in adapters.items() if layer.feedforward}
    regular = isinstance(config.target_modules, str) or isinstance(config.feedforward_modules, str)
    return {
        # PEFT wants the one to be a subset of the other, so both are whole paths or neither.
        "target_modules": sorted(adapters) if regular else list(config.target_modules),
        "feedforward_modules": sorted(feedforward) if regular else list(config.feedforward_modules),
        "fan_in_fan_out": False,
        "init_ia3_weights": True,
        "modules_to_save": None,
    }


def _ia3_config(fields: Fields) -> Ia3Config:
    fields.pop("init_ia3_weights", True)
    return Ia3Config(
        target_modules=_targets(fields.pop("target_modules")),
        feedforward_modules=_targets(fields.pop("feedforward_modules", None)),
    )


# PEFT's name of each of AdaLoRA's options that is stored as it is.
_ADALORA_NAMES = {
    "init_r": "init_rank",
    "target_r": "target_rank",
    "lora_alpha": "alpha",
    "lora_dropout": "dropout",
    "total_step": "total_steps",
    "tinit": "initial_steps",
    "tfinal": "final_steps",
    "deltaT": "interval",
    "beta1": "beta_sensitivity",
    "beta2": "beta_uncertainty",
    "orth_reg_weight": "orthogonality_weight",
}


def _left_ranks(model: nn.Module, config: AdaLoraConfig) -> Mapping[str, tuple[bool, ...]] | None:
    """Which initial singular values the file keeps; None where the model still has all or none."""
    if config.rank_pattern is not None:
        return config.rank_pattern
    pattern = adalora.rank_pattern(model)
    left = [value for values in pattern.values() for value in values]
    return pattern if any(left) and not all(left) else None


def _adalora_tensors(model: nn.Module, config: AdaLoraConfig) -> dict[str, Tensor]:
    tensors = named(model, "lora_A", "lora_E", "lora_B")
    pattern = _left_ranks(model, config)
    if config.rank_pattern is not None or pattern is None:
        return tensors
    for name, left in pattern.items():
        key = f"{PREFIX}{name}."
        rows = [index for index, value in enumerate(left) if value]
        for factor in ("lora_A", "lora_E"):
            tensors[key + factor] = tensors[key + factor][rows]
        tensors[key + "lora_B"] = tensors[key + "lora_B"][:, rows]
    return tensors


def _adalora_fields(model: nn.Module, config: AdaLoraConfig) -> Fields:
    adapters = adalora.layers(model)
    pattern = _left_ranks(model, config)
    for name, layer in adapters.items():
        rank = config.init_rank if config.rank_pattern is None else sum(config.rank_pattern[name])
        if (len(layer.lora_E), layer.scaling) != (rank, config.scaling):
            raise ValueError(
                f"{name} has rank {len(layer.lora_E)} and scaling {layer.scaling}; the config says "
                f"{rank} and {config.scaling}: give the one that apply was given"
            )
    return {
        **{theirs: getattr(config, ours) for theirs, ours in _ADALORA_NAMES.items()},
        "target_modules": _target_fields(adapters, config.target_modules),
        "rank_pattern": pattern and {f"{name}.lora_E": list(v) for name, v in pattern.items()},
        "bias": "none",
        "fan_in_fan_out": False,
        "init_lora_weights": True,
        "modules_to_save": None,
    }


def _adalora_config(fields: Fields) -> AdaLoraConfig:
    fields.pop("r", None)  # PEFT writes LoRA's default, and ignores it
    fields.pop("init_lora_weights", None)
    if fields.get("bias") == "none":
        fields.pop("bias")
    options = {ours: fields.pop(theirs) for theirs, ours in _ADALORA_NAMES.items()}
    config = AdaLoraConfig(target_modules=_targets(fields.pop("target_modules")), **options)
    pattern = fields.pop("rank_pattern", None)
    if not pattern:
        return config
    left = {name.removesuffix(".lora_E"): tuple(values) for name, values in pattern.items()}
    return dataclasses.replace(config, rank_pattern=left)


LORA = Format(
    peft_type="LORA",
    config=LoraConfig,
    apply=lora.apply,
    remove=lora.remove,
    tensors=_lora_tensors,
    to_fields=_lora_fields,
    from_fields=_lora_config,
)
IA3 = Format(
    peft_type="IA3",
    config=Ia3Config,
    apply=ia3.apply,
    remove=ia3.remove,
    tensors=lambda model, config: named(model, "ia3_l"),
    to_fields=_ia3_fields,
    from_fields=_ia3_config,
)
ADALORA = Format(
    peft_type="ADALORA",
    config=AdaLoraConfig,
    apply=adalora.apply,
    remove=adalora.remove,
    tensors=_adalora_tensors,
    to_fields=_adalora_fields,
    from_fields=_adalora_config,
)
