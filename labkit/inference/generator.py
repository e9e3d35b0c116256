"""A model that writes: model, tokenizer and the way tokens are chosen, in one object."""

from collections.abc import Iterator
from pathlib import Path

import torch

from labkit.inference import generate
from labkit.inference.generate import Generation
from labkit.inference.sampling import SamplingConfig
from labkit.model import zoo
from labkit.model.minillm import MiniLLM
from labkit.model.tokenizer import Tokenizer
from labkit.tuning import adapter_files


class Generator:
    """The functions of `labkit.inference.generate` with their first and last arguments fixed.

    Args:
        model: MiniLLM, with adapters or quantized linears or without.
        tokenizer: its tokenizer.
        config: choice of tokens and end; greedy by default.
    """

    def __init__(
        self, model: MiniLLM, tokenizer: Tokenizer, config: SamplingConfig | None = None
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.config = SamplingConfig() if config is None else config

    @classmethod
    def load(
        cls,
        checkpoint: str | Path,
        config: SamplingConfig | None = None,
        *,
        dtype: str | torch.dtype = "auto",
        device: str | torch.device = "auto",
    ) -> "Generator":
        """The generator of what a training wrote: a model, or an adapter with its base under it.

        Args:
            checkpoint: a model as `zoo.load` takes it, or a folder in PEFT's format.
            config: choice of tokens and end.
            dtype: of the weights; see `choose_dtype`.
            device: "auto", "cpu" or "cuda".

        Raises:
            ValueError, OSError: as `zoo.load` and `adapter_files.load`; also where an adapter does
                not say which model it is for.
        """
        if not (Path(checkpoint) / adapter_files.CONFIG_NAME).is_file():
            loaded = zoo.load(checkpoint, dtype=dtype, device=device)
            return cls(loaded.model, loaded.tokenizer, config)
        adapter = adapter_files.read(checkpoint)
        if adapter.base_name is None:
            raise ValueError(
                f"the adapter {checkpoint} does not name its base model: load the model and put it "
                "on with labkit.tuning.adapter_files.load"
            )
        loaded = zoo.load(adapter.base_name, dtype=dtype, device=device)
        return cls(adapter_files.attach(loaded.model, adapter), loaded.tokenizer, config)

    def generate(self, prompts: str | list[str]) -> list[Generation]:
        """One text a prompt; see `generate.generate`."""
        return generate.generate(self.model, self.tokenizer, prompts, self.config)

    def stream(self, prompt: str) -> Iterator[str]:
        """One text in pieces, as soon as each is final; see `generate.stream`."""
        return generate.stream(self.model, self.tokenizer, prompt, self.config)

    def chat(self, messages: list[dict[str, str]]) -> Generation:
        """The assistant's answer to messages of the form `{"role": …, "content": …}`."""
        return generate.chat(self.model, self.tokenizer, messages, self.config)
