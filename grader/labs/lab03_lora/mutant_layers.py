"""Wrong layers of exercise 2 that its check must tell from a right one."""

import copy
import math
from typing import Any, cast

import torch
from torch import Tensor, nn

from grader.labs.lab03_lora import reference


class BothZero(reference.LoraLinear):
    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        nn.init.zeros_(self.lora_A)


class BothRandom(reference.LoraLinear):
    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        nn.init.normal_(self.lora_B, generator=arguments[3])


class BaseTrains(reference.LoraLinear):
    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.base.requires_grad_(True)


class NoScaling(reference.LoraLinear):
    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.base(x) + (x @ self.lora_A.T) @ self.lora_B.T)


class GlobalSeed(reference.LoraLinear):
    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))


class Detached(reference.LoraLinear):
    def forward(self, x: Tensor) -> Tensor:
        narrow = x @ self.lora_A.detach().T
        return cast(Tensor, self.base(x) + self.scaling * narrow @ self.lora_B.T)


class SeedsGlobally(reference.LoraLinear):
    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        torch.manual_seed(0)
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))


class HidesItsSeed(reference.LoraLinear):
    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))


class OneNumberMore(reference.LoraLinear):
    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        torch.randn(1)


class FromLinear(reference.LoraLinear):
    def __init__(self, base: nn.Linear, rank: int, *arguments: Any) -> None:
        super().__init__(base, rank, *arguments)
        with torch.no_grad():
            self.lora_A.copy_(nn.Linear(base.in_features, rank, bias=False).weight)


class SeedOfTheGenerator(reference.LoraLinear):
    def __init__(self, *arguments: Any) -> None:
        again = torch.Generator().manual_seed(arguments[3].initial_seed())
        base, rank, alpha, _ = arguments
        super().__init__(base, rank, alpha, again)


class UpdateOfX(reference.LoraLinear):
    def forward(self, x: Tensor) -> Tensor:
        update = self.scaling * self.lora_B @ self.lora_A
        return cast(Tensor, self.base(x) + x @ update.T)


class UpdatedWeight(reference.LoraLinear):
    def forward(self, x: Tensor) -> Tensor:
        weight = self.base.weight + self.scaling * self.lora_B @ self.lora_A
        return nn.functional.linear(x, weight, self.base.bias)


class TransposedUpdate(reference.LoraLinear):
    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.base(x) + self.scaling * x @ (self.lora_A.T @ self.lora_B.T))


class OtherName(reference.LoraLinear):
    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.inner = self.base
        del self.base

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.inner(x) + self.scaling * (x @ self.lora_A.T) @ self.lora_B.T)


class CopiesBase(reference.LoraLinear):
    def __init__(self, base: nn.Linear, *arguments: Any) -> None:
        super().__init__(copy.deepcopy(base), *arguments)


class BaseWithoutGradient(reference.LoraLinear):
    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            plain = self.base(x)
        return cast(Tensor, plain + self.scaling * (x @ self.lora_A.T) @ self.lora_B.T)


class DetachedInput(reference.LoraLinear):
    def forward(self, x: Tensor) -> Tensor:
        narrow = x.detach() @ self.lora_A.T
        return cast(Tensor, self.base(x) + self.scaling * narrow @ self.lora_B.T)
