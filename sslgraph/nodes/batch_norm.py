"""One batch norm for every built node: whose samples share the statistics is declared, not implied.

`replace_batch_norms` puts it in the place of each batch norm that a node made, so that a timm model
obeys ``batch_norm: {per: view | none, ranks: all | own}`` without knowing of it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from sslgraph.nodes.ranks import sum_over_ranks, world_size
from sslgraph.spec import BatchNormSpec


class BatchNorm(nn.Module):
    """Batch normalisation with declared statistics.

    Args:
        of: The torch (or timm) batch norm whose parameters, buffers and constants it takes over;
            the names stay, so state dicts fit both ways. timm's activation after the norm is kept.
        rule: Whose samples share statistics. ``ranks: all`` averages over processes with gradient.

    Training uses the statistics of the batch and updates the running ones; evaluation uses the
    running ones only. Shape: N C ... -> the same.
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
        self.register_parameter("weight", of.weight)
        self.register_parameter("bias", of.bias)
        for name in ("running_mean", "running_var", "num_batches_tracked"):
            self.register_buffer(name, getattr(of, name))
        # timm's names, since an activation may have parameters.
        self.drop, self.act = getattr(of, "drop", None), getattr(of, "act", None)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise each channel of x."""
        if not self.training and self.running_mean is not None:
            y = self._normalised(x, training=False)
        elif self.ranks == "all" and world_size() > 1:
            y = self._over_ranks(x)
        else:
            self._count()
            y = self._normalised(x, training=True)
        y = y if self.drop is None else self.drop(y)
        return y if self.act is None else self.act(y)

    def _normalised(self, x: Tensor, *, training: bool) -> Tensor:
        return functional.batch_norm(
            x,
            self.running_mean,
            self.running_var,
            self.weight,
            self.bias,
            training,
            self._rate(),
            self.eps,
        )

    def _rate(self) -> float:
        if self.momentum is not None:
            return self.momentum
        seen = self.num_batches_tracked
        return 0.0 if seen is None else 1.0 / float(seen)

    def _count(self) -> None:
        if self.num_batches_tracked is not None:
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
        if self.running_mean is None or self.running_var is None:
            return
        rate = self._rate()
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), rate)
        unbiased = variance * total / (total - 1)
        self.running_var.lerp_(unbiased.to(self.running_var.dtype), rate)

    def extra_repr(self) -> str:
        """Size and rule."""
        return f"{self.num_features}, eps={self.eps}, per={self.per}, ranks={self.ranks}"


def replace_batch_norms(module: nn.Module, rule: BatchNormSpec) -> None:
    """Put `BatchNorm` in the place of every batch norm inside a module."""
    for name, child in list(module.named_children()):
        if isinstance(child, _BatchNorm):
            setattr(module, name, BatchNorm(child, rule))
        else:
            replace_batch_norms(child, rule)


def statistics_apart(module: nn.Module) -> bool:
    """Whether a module has batch statistics that are kept apart between views."""
    return any(isinstance(m, BatchNorm) and m.per == "view" for m in module.modules())
