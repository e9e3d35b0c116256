"""The bodies of POST /v1/embeddings and of the routes that load and unload adapters."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class EmbeddingRequest(BaseModel):
    """POST /v1/embeddings: one vector a text, the mean of its tokens' final hidden states."""

    model_config = ConfigDict(extra="forbid")
    model: str
    input: str | list[str] | list[int] | list[list[int]]
    encoding_format: Literal["float", "base64"] = "float"
    user: str | None = None


class LoadAdapterRequest(BaseModel):
    """POST /v1/load_lora_adapter, in vLLM's form.

    Without `lora_path`, the name is looked up in the server's folder of adapters. A name that is
    mounted is refused, unless `load_inplace` asks for a new version under it.
    """

    model_config = ConfigDict(extra="forbid")
    lora_name: str = Field(min_length=1, max_length=128)
    lora_path: str | None = Field(default=None, min_length=1, max_length=4096)
    load_inplace: bool = False


class UnloadAdapterRequest(BaseModel):
    """POST /v1/unload_lora_adapter, in vLLM's form."""

    model_config = ConfigDict(extra="forbid")
    lora_name: str = Field(min_length=1, max_length=128)
