"""Data parallelism: every rank holds the model, takes part of the batch, and gradients are summed.

Gradients travel in buckets while backward still runs: the last layers' gradients are ready first.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from labkit.training.parallel import collectives
from labkit.training.parallel.collectives import Group


class Bucket:
    """Parameters whose gradients are reduced together, side by side in one flat tensor."""

    def __init__(self, parameters: Sequence[nn.Parameter]) -> None:
        first = parameters[0]
        self.parameters = list(parameters)
        numel = sum(p.numel() for p in parameters)
        self.flat = torch.zeros(numel, dtype=first.dtype, device=first.device)
        pieces = self.flat.split([p.numel() for p in parameters])
        shaped = zip(pieces, parameters, strict=True)
        self.views = [piece.view_as(parameter) for piece, parameter in shaped]
        self.missing = set(range(len(self.parameters)))

    def fill(self, place: int) -> None:
        """Copies one parameter's gradient in."""
        gradient = self.parameters[place].grad
        assert gradient is not None
        self.views[place].copy_(gradient)
        self.missing.discard(place)

    def hand_back(self, scale: float) -> None:
        """Makes the reduced gradients the parameters' own, and starts anew."""
        self.flat.mul_(scale)
        for parameter, view in zip(self.parameters, self.views, strict=True):
            parameter.grad = view.clone() if parameter.grad is None else parameter.grad.copy_(view)
        self.flat.zero_()
        self.missing = set(range(len(self.parameters)))


def fill_buckets(parameters: Sequence[nn.Parameter], bucket_bytes: int) -> list[Bucket]:
    """Buckets of at most `bucket_bytes`, or one larger parameter, in the order backward needs.

    That is the reverse of the model's own. A bucket holds one dtype; the last is as small as it is.

    Raises:
        ValueError: `bucket_bytes` is not positive.
    """
    if bucket_bytes < 1:
        raise ValueError(f"bucket_bytes={bucket_bytes} must be positive")
    groups: list[list[nn.Parameter]] = []
    size = 0
    for parameter in reversed(parameters):
        bytes_ = parameter.numel() * parameter.element_size()
        full = size + bytes_ > bucket_bytes
        if not groups or full or groups[-1][0].dtype != parameter.dtype:
            groups.append([])
            size = 0
        groups[-1].append(parameter)
        size += bytes_
    return [Bucket(group) for group in groups]


class DataParallel:
    """Reduces the gradients of `model` over `group` during every backward pass.

    Call `finish` between `backward` and the optimizer's step. Frozen parameters are not sent; a
    tied one is sent once. Memory beside the model: one copy of its gradients.

    Paper: the buckets and their fixed order are those of arXiv 2006.15704, section 3.2.
    """

    def __init__(
        self,
        model: nn.Module,
        group: Group,
        *,
        bucket_bytes: int = 25 * 2**20,
        reduction: str = "mean",
        unused: str = "raise",
    ) -> None:
        """Copies rank 0's parameters and buffers to all ranks, and hooks the gradients.

        Args:
            model: the same on every rank but for its values.
            group: the ranks that share the batch.
            bucket_bytes: largest bucket.
            reduction: "mean" where each rank's loss is the mean over an equal part of the batch;
                "sum" where it is the part's sum over the whole batch's count (ragged parts).
            unused: what `finish` does about a parameter that backward did not reach: "raise", or
                "zeros", which counts it as 0 on this rank.

        Raises:
            ValueError: an option is unknown, or nothing is trainable.
        """
        if reduction not in ("mean", "sum") or unused not in ("raise", "zeros"):
            raise ValueError(
                f"reduction={reduction!r} must be 'mean' or 'sum', unused={unused!r} 'raise' or "
                "'zeros'"
            )
        self._names = {p: name for name, p in model.named_parameters() if p.requires_grad}
        if not self._names:
            raise ValueError("no parameter requires a gradient: there is nothing to reduce")
        self.group, self.reduction, self.unused = group, reduction, unused
        self.buckets = fill_buckets(list(self._names), bucket_bytes)
        for tensor in (*model.parameters(), *model.buffers()):
            collectives.broadcast(tensor.detach(), group)
        self._sending: list[Future[Tensor]] = []
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="reduce")
        self._enabled = True
        for bucket in self.buckets:
            self._hook(bucket)

    @property
    def launched(self) -> int:
        """Buckets on their way since the last `finish`; before it, those backward hid."""
        return len(self._sending)

    def finish(self) -> None:
        """Waits until all gradients are reduced and stand in `.grad`, the same on every rank.

        Raises:
            ValueError: backward did not reach a parameter, and `unused` is "raise". The other
                ranks then wait in vain until their group times out.
        """
        missing = [self._names[b.parameters[i]] for b in self.buckets for i in sorted(b.missing)]
        if missing and self.unused == "raise":
            raise ValueError(
                f"backward reached no gradient of {', '.join(missing)}: freeze what the loss does "
                "not use, or pass unused='zeros'"
            )
        for bucket in self.buckets:
            bucket.missing.clear()
        self._launch_ready()
        scale = 1 / self.group.size if self.reduction == "mean" else 1.0
        for bucket, sent in zip(self.buckets, self._sending, strict=True):
            sent.result()
            bucket.hand_back(scale)
        self._sending = []

    def reduce_accumulated(self) -> None:
        """Reduces what `no_sync` has accumulated when no backward follows, and finishes."""
        for bucket in self.buckets:
            for place, parameter in enumerate(bucket.parameters):
                if parameter.grad is not None:
                    bucket.fill(place)
        self.finish()

    @contextmanager
    def no_sync(self) -> Iterator[None]:
        """Within the context, backward only accumulates; the next one outside reduces the sum."""
        self._enabled = False
        try:
            yield
        finally:
            self._enabled = True

    def close(self) -> None:
        """Ends the sending thread."""
        self._thread.shutdown()

    def _hook(self, bucket: Bucket) -> None:
        for place, parameter in enumerate(bucket.parameters):

            def ready(_: Tensor, place: int = place) -> None:
                if self._enabled:
                    bucket.fill(place)
                    self._launch_ready()

            parameter.register_post_accumulate_grad_hook(ready)

    def _launch_ready(self) -> None:
        """Sends full buckets, in the one order all ranks share: a ring meets only its like."""
        for bucket in self.buckets[self.launched :]:
            if bucket.missing:
                return
            self._sending.append(
                self._thread.submit(collectives.all_reduce, bucket.flat, self.group)
            )
