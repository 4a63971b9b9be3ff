"""One batch norm for every built node: whose samples share the statistics is declared, not implied.

`replace_batch_norms` puts it in the place of each batch norm that a node made, so that a timm model
obeys ``batch_norm: {per: view | none, ranks: all | own | shuffled, groups: N}`` without knowing of
it. Which samples lie in which group, `sslgraph.nodes.shuffle` sees to before a node is called.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from sslgraph.nodes.ranks import sum_over_ranks, world_size
from sslgraph.nodes.repeats import computes_again
from sslgraph.train_spec import BatchNormSpec

Running = tuple[Tensor | None, Tensor | None]
"""Running mean and variance, where a norm has them."""


class BatchNorm(nn.Module):
    """Batch normalisation with declared statistics.

    Args:
        of: The torch (or timm) batch norm whose parameters, buffers and constants it takes over;
            the names stay, so state dicts fit both ways. timm's activation after the norm is kept.
        rule: Whose samples share statistics. ``ranks: all`` averages over processes with gradient;
            ``groups: N`` cuts the batch into N equal runs of rows, each with its own statistics.

    Training uses the statistics of the batch and updates the running ones, once where a backward
    pass computes it again; groups write the mean of what each of them would. Evaluation uses the
    running ones only. Shape: N C ... -> the same.

    Raises:
        ValueError: In a call: the rows can't be cut into groups of one size.
    """

    weight: Tensor | None
    bias: Tensor | None
    running_mean: Tensor | None
    running_var: Tensor | None
    num_batches_tracked: Tensor | None

    def __init__(self, of: _BatchNorm, rule: BatchNormSpec) -> None:
        super().__init__()
        self.num_features = of.num_features
        self.eps = of.eps
        self.momentum = of.momentum
        self.per = rule.per
        self.ranks = rule.ranks
        self.groups = rule.groups
        self.register_parameter("weight", of.weight)
        self.register_parameter("bias", of.bias)
        for name in ("running_mean", "running_var", "num_batches_tracked"):
            self.register_buffer(name, getattr(of, name))
        # timm's names, since an activation may have parameters.
        self.drop, self.act = getattr(of, "drop", None), getattr(of, "act", None)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise each channel of x."""
        if not self.training and self.running_mean is not None:
            y = self._normalised(x, self._running(), training=False)
        elif self.ranks == "all" and world_size() > 1:
            y = self._over_ranks(x)
        else:
            self._count()
            y = self._in_groups(x)
        y = y if self.drop is None else self.drop(y)
        return y if self.act is None else self.act(y)

    def _in_groups(self, x: Tensor) -> Tensor:
        # On the meta device shapes alone are wanted, whatever the size of the batch.
        if self.groups == 1 or not self.training or x.is_meta:
            running = self._copied() if computes_again() else self._running()
            return self._normalised(x, running, training=True)
        check_divides(len(x), self.groups, "rows")
        each = [self._copied() for _ in range(self.groups)]
        parts = zip(x.chunk(self.groups), each, strict=True)
        y = torch.cat([self._normalised(part, running, training=True) for part, running in parts])
        if not computes_again():
            for kept, written in zip(self._running(), zip(*each, strict=True), strict=True):
                if kept is not None:
                    kept.copy_(torch.stack(written).mean(0))
        return y

    def _running(self) -> Running:
        return self.running_mean, self.running_var

    def _copied(self) -> Running:
        mean, var = self._running()
        return None if mean is None else mean.clone(), None if var is None else var.clone()

    def _normalised(self, x: Tensor, running: Running, *, training: bool) -> Tensor:
        return functional.batch_norm(
            x, *running, self.weight, self.bias, training, self._rate(), self.eps
        )

    def _rate(self) -> float:
        if self.momentum is not None:
            return self.momentum
        seen = self.num_batches_tracked
        return 0.0 if seen is None else 1.0 / float(seen)

    def _count(self) -> None:
        if self.num_batches_tracked is not None and not computes_again():
            self.num_batches_tracked.add_(1)

    def _over_ranks(self, x: Tensor) -> Tensor:
        dims = [d for d in range(x.dim()) if d != 1]
        shape = [1, -1] + [1] * (x.dim() - 2)
        high = x.to(torch.promote_types(x.dtype, torch.float32))
        count = torch.full((1,), x.numel() / x.shape[1], dtype=high.dtype, device=x.device)
        sums = sum_over_ranks(torch.cat([high.sum(dims), count]))
        total = sums[-1].detach()
        mean = sums[:-1] / total
        # Two passes: the mean of squares minus the squared mean loses digits in float32.
        centred = high - mean.view(shape)
        variance = sum_over_ranks(centred.square().sum(dims)) / total
        self._count()
        self._update(mean.detach(), variance.detach(), total)
        y = centred * torch.rsqrt(variance + self.eps).view(shape)
        if self.weight is not None:
            y = y * self.weight.view(shape)
        if self.bias is not None:
            y = y + self.bias.view(shape)
        return y.to(x.dtype)

    def _update(self, mean: Tensor, variance: Tensor, total: Tensor) -> None:
        if self.running_mean is None or self.running_var is None or computes_again():
            return
        rate = self._rate()
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), rate)
        unbiased = variance * total / (total - 1)
        self.running_var.lerp_(unbiased.to(self.running_var.dtype), rate)

    def extra_repr(self) -> str:
        """Size and rule."""
        return f"{self.num_features}, eps={self.eps}, per={self.per}, ranks={self.ranks}" + (
            f", groups={self.groups}" if self.groups > 1 else ""
        )


def check_divides(count: int, groups: int, what: str) -> None:
    """Refuse a batch that can't be cut into groups of one size.

    Raises:
        ValueError: It can't; the text says what to do.
    """
    if count % groups:
        raise ValueError(
            f"batch_norm.groups: {count} {what} can't be cut into {groups} groups of one size; let "
            "each process have a multiple of that a forward pass (train.batch_size divided by "
            "train.accumulate and by the number of processes), or change 'groups'"
        )


def replace_batch_norms(module: nn.Module, rule: BatchNormSpec) -> int:
    """Put `BatchNorm` in the place of every batch norm inside a module; how many there were."""
    count = 0
    for name, child in list(module.named_children()):
        if isinstance(child, _BatchNorm):
            setattr(module, name, BatchNorm(child, rule))
            count += 1
        else:
            count += replace_batch_norms(child, rule)
    return count


def statistics_apart(module: nn.Module) -> bool:
    """Whether a module has batch statistics that are kept apart between views."""
    return any(isinstance(m, BatchNorm) and m.per == "view" for m in module.modules())
