"""What crosses ranks: one gather and one sum, both with the true gradient, on any backend."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor


def world_size() -> int:
    """Number of processes that train together; 1 without a process group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Number of this process among those that train together; 0 without a process group."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def gather(x: Tensor, dim: int, *, grad: bool) -> Tensor:
    """The same axis of every rank, joined in rank order.

    Args:
        x: Values of this rank, equal in shape on all ranks.
        dim: The axis to join, usually the batch.
        grad: Whether gradient flows back. It is summed over ranks, so that the mean which data
            parallel training takes is the gradient of one process with the whole batch.
    """
    if world_size() == 1:
        return x
    if grad:
        return _Gather.apply(x, dim)  # type: ignore[no-any-return]
    parts = [torch.empty_like(x) for _ in range(world_size())]
    dist.all_gather(parts, x.detach().contiguous())
    return torch.cat(parts, dim)


def sum_over_ranks(x: Tensor) -> Tensor:
    """Sum over ranks; the gradient is summed likewise."""
    if world_size() == 1:
        return x
    return _Sum.apply(x)  # type: ignore[no-any-return]


def max_over_ranks(x: Tensor) -> Tensor:
    """The largest of each element over ranks, without gradient."""
    if world_size() == 1:
        return x
    largest = x.detach().contiguous().clone()
    dist.all_reduce(largest, op=dist.ReduceOp.MAX)
    return largest


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, dim: int) -> Tensor:  # type: ignore[no-untyped-def]
        ctx.dim, ctx.size = dim, x.shape[dim]
        parts = [
            torch.empty_like(x, memory_format=torch.contiguous_format) for _ in range(world_size())
        ]
        dist.all_gather(parts, x.contiguous())
        return torch.cat(parts, dim)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:  # type: ignore[no-untyped-def]
        grad = grad.contiguous().clone()
        dist.all_reduce(grad)
        return grad.narrow(ctx.dim, dist.get_rank() * ctx.size, ctx.size), None


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
        total = x.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
        total = grad.contiguous().clone()
        dist.all_reduce(total)
        return total
