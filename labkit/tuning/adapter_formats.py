"""Which methods PEFT's files hold, found by their options or by the name in the file."""

from labkit.tuning.adalora import AdaLoraConfig
from labkit.tuning.file_format import Format
from labkit.tuning.ia3 import Ia3Config
from labkit.tuning.linear_formats import ADALORA, IA3, LORA
from labkit.tuning.lora import LoraConfig
from labkit.tuning.p_tuning import PTuningConfig
from labkit.tuning.prefix_tuning import PrefixTuningConfig
from labkit.tuning.prompt_formats import P_TUNING, PREFIX_TUNING, PROMPT_TUNING
from labkit.tuning.prompt_tuning import PromptTuningConfig

AdapterConfig = (
    LoraConfig | Ia3Config | AdaLoraConfig | PromptTuningConfig | PTuningConfig | PrefixTuningConfig
)
FORMATS = (LORA, IA3, ADALORA, PROMPT_TUNING, P_TUNING, PREFIX_TUNING)


def of_config(config: object) -> Format:
    """The format of a method's options.

    Raises:
        ValueError: the files know no such method.
    """
    for form in FORMATS:
        if type(config) is form.config:
            return form
    known = ", ".join(form.config.__name__ for form in FORMATS)
    raise ValueError(f"a {type(config).__name__} has no place in PEFT's files; these have: {known}")


def of_peft_type(peft_type: str) -> Format:
    """The format that a file names.

    Raises:
        ValueError: it is not read here.
    """
    for form in FORMATS:
        if form.peft_type == peft_type:
            return form
    known = ", ".join(repr(form.peft_type) for form in FORMATS)
    raise ValueError(f"peft_type={peft_type!r}, and only {known} are read here")
