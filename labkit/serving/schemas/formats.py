"""What form a text is asked to have: JSON, JSON of a schema, or a regular expression."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class TextFormat(BaseModel):
    """No form at all."""

    model_config = ConfigDict(extra="forbid")
    type: Literal["text"]


class JsonObjectFormat(BaseModel):
    """Any JSON object."""

    model_config = ConfigDict(extra="forbid")
    type: Literal["json_object"]


class JsonSchema(BaseModel):
    """A schema with OpenAI's words around it; `strict` changes nothing, it always is."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True)
    name: str
    description: str | None = None
    fields: dict[str, Any] = Field(alias="schema")
    strict: bool | None = None


class JsonSchemaFormat(BaseModel):
    """JSON that satisfies a schema."""

    model_config = ConfigDict(extra="forbid")
    type: Literal["json_schema"]
    json_schema: JsonSchema


ResponseFormat = Annotated[
    TextFormat | JsonObjectFormat | JsonSchemaFormat, Field(discriminator="type")
]


class StructuredOutputs(BaseModel):
    """vLLM's field: a JSON Schema or a regular expression that the whole text matches."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True)
    fields: dict[str, Any] | None = Field(default=None, alias="json")
    regex: str | None = Field(default=None, max_length=2000)

    @model_validator(mode="after")
    def _one(self) -> "StructuredOutputs":
        if (self.fields is None) == (self.regex is None):
            raise ValueError("structured_outputs takes either json or regex")
        return self
