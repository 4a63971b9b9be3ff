"""The optimizers of a run: SGD, Adam, AdamW of torch, LARS in the two forms of papers, and LARC."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, overload

import torch
from torch import Tensor
from torch.optim import SGD, Adam, AdamW, Optimizer

from sslgraph.train.groups import ParameterGroup
from sslgraph.train_spec import TrainSpec

Form = Literal["pre", "post"]

_FUSED = ("cpu", "cuda")


class _LayerWise(Optimizer):
    """Momentum over gradients that were adapted tensor by tensor.

    A subclass says by `_adapted` what becomes of the gradients of a group. Buffers b, at the
    beginning 0, follow b = momentum * b + move.
    """

    # Whether the learning rate enters the buffers, or multiplies them.
    _rate_inside = False

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float,
        momentum: float,
        weight_decay: float,
        trust_coefficient: float,
    ) -> None:
        defaults = {"lr": lr, "weight_decay": weight_decay, "adapt": True}
        super().__init__(params, defaults)
        self.momentum = momentum
        self.trust_coefficient = trust_coefficient

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Update every tensor that has a gradient.

        Args:
            closure: Computes the loss again, with gradients; most runs give none.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            weights = [w for w in group["params"] if w.grad is not None]
            if weights:
                self._update(weights, group)
        return loss

    def _update(self, weights: list[Tensor], group: dict[str, Any]) -> None:
        lr = float(group["lr"])
        moves = self._adapted(weights, [w.grad for w in weights if w.grad is not None], group)
        buffers = [self._buffer(w) for w in weights]
        torch._foreach_mul_(buffers, self.momentum)
        torch._foreach_add_(buffers, moves, alpha=lr if self._rate_inside else 1.0)
        torch._foreach_add_(weights, buffers, alpha=-1.0 if self._rate_inside else -lr)

    def _adapted(
        self, weights: list[Tensor], grads: list[Tensor], group: dict[str, Any]
    ) -> list[Tensor]:
        raise NotImplementedError

    def _buffer(self, weight: Tensor) -> Tensor:
        state = self.state[weight]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(weight)
        buffer = state["momentum_buffer"]
        assert isinstance(buffer, Tensor)
        return buffer


class Lars(_LayerWise):
    """Layer-wise adaptive rate scaling (You et al., arXiv:1708.03888).

    With gradient g, weight w and d = g + weight_decay * w, a tensor's trust is
    trust_coefficient * |w| / |d|, or 1 where a norm is 0. The forms agree only while the learning
    rate is constant:

    - ``pre``: v = momentum * v + lr * trust * d; w -= v
    - ``post``: m = momentum * m + trust * d; w -= lr * m

    A group with ``adapt=False`` (biases and normalisation, as a rule) has neither decay nor trust.

    Args:
        params: Tensors or groups of them; a group may set ``lr``, ``weight_decay`` and ``adapt``.
        lr: Learning rate.
        momentum: Factor of the momentum buffer.
        weight_decay: Weight of the L2 term of adapted tensors.
        trust_coefficient: Size of a tensor's step relative to its own norm.
        form: Whether the learning rate enters the momentum buffer.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float = 1.0,
        *,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        trust_coefficient: float = 1e-3,
        form: Form = "post",
    ) -> None:
        super().__init__(params, lr, momentum, weight_decay, trust_coefficient)
        self._rate_inside = form == "pre"

    def _adapted(
        self, weights: list[Tensor], grads: list[Tensor], group: dict[str, Any]
    ) -> list[Tensor]:
        if not group["adapt"]:
            return grads
        moves = list(torch._foreach_add(grads, weights, alpha=float(group["weight_decay"])))
        weight_norms, move_norms = _norms(weights), _norms(moves)
        usable = (weight_norms > 0) & (move_norms > 0)
        trust = self.trust_coefficient * weight_norms / move_norms.where(usable, 1.0)
        torch._foreach_mul_(moves, list(trust.where(usable, 1.0).unbind()))
        return moves


class Larc(_LayerWise):
    """Layer-wise adaptive rate control, in the scaling form that SwAV trains with.

    With gradient g and weight w, and the norm of g taken before the decay is added:

        a = trust_coefficient * |w| / (|g| + weight_decay * |w| + 1e-8)
        m = momentum * m + a * (g + weight_decay * w)
        w -= lr * m

    Every tensor is adapted, whatever its shape. One whose own norm or whose gradient's norm is 0
    moves by its plain gradient, without decay (NVIDIA apex, `LARC` with ``clip=False``).

    Args:
        params: Tensors or groups of them; a group may set ``lr`` and ``weight_decay``.
        lr: Learning rate.
        momentum: Factor of the momentum buffer.
        weight_decay: Weight of the L2 term.
        trust_coefficient: Size of a tensor's step relative to its own norm.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float = 1.0,
        *,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        trust_coefficient: float = 1e-3,
    ) -> None:
        super().__init__(params, lr, momentum, weight_decay, trust_coefficient)

    def _adapted(
        self, weights: list[Tensor], grads: list[Tensor], group: dict[str, Any]
    ) -> list[Tensor]:
        decay = float(group["weight_decay"])
        weight_norms, grad_norms = _norms(weights), _norms(grads)
        usable = (weight_norms > 0) & (grad_norms > 0)
        scale = self.trust_coefficient * weight_norms / (grad_norms + decay * weight_norms + 1e-8)
        factors = scale.where(usable, 1.0)
        moves = list(torch._foreach_mul(grads, list(factors.unbind())))
        decays = (factors * decay).where(usable, 0.0)
        torch._foreach_addcmul_(moves, weights, list(decays.unbind()))
        return moves


def _norms(tensors: list[Tensor]) -> Tensor:
    return torch.stack(torch._foreach_norm(tensors))


def build_optimizer(spec: TrainSpec, groups: Sequence[ParameterGroup]) -> Optimizer:
    """The optimizer that a run asks for.

    Args:
        spec: The run's settings.
        groups: What it trains; learning rate and weight decay are set anew before each step.

    Raises:
        ValueError: Nothing is trained.
    """
    tensors = [parameter for group in groups for parameter in group.parameters]
    if not tensors:
        raise ValueError("no parameter is trained: remove 'train: false' from a node")
    dicts = [{"params": group.parameters, "adapt": group.rule.adapt} for group in groups]
    if spec.optimizer == "lars":
        return Lars(
            dicts,
            momentum=spec.momentum,
            trust_coefficient=spec.trust_coefficient,
            form=spec.form,
        )
    if spec.optimizer == "larc":
        return Larc(dicts, momentum=spec.momentum, trust_coefficient=spec.trust_coefficient)
    # One fused pass over each tensor is 2 to 3 times as fast as torch's loop, also on the CPU.
    fused = all(p.device.type in _FUSED and p.is_floating_point() for p in tensors)
    if spec.optimizer == "sgd":
        return SGD(dicts, lr=0.0, momentum=spec.momentum, nesterov=spec.nesterov, fused=fused)
    kind = Adam if spec.optimizer == "adam" else AdamW
    return kind(dicts, lr=0.0, betas=spec.betas, eps=spec.eps, fused=fused)


def optimizer_state(optimizer: Optimizer, groups: Sequence[ParameterGroup]) -> dict[str, Any]:
    """What the optimizer remembers of each parameter, by the parameter's name."""
    names = [name for group in groups for name in group.names]
    state = optimizer.state_dict()["state"]
    return {names[place]: values for place, values in state.items()}


def load_optimizer_state(
    optimizer: Optimizer, groups: Sequence[ParameterGroup], state: dict[str, Any]
) -> None:
    """Give an optimizer back what `optimizer_state` took from one.

    Raises:
        ValueError: The state belongs to a parameter that this run doesn't train.
    """
    names = [name for group in groups for name in group.names]
    unknown = sorted(set(state) - set(names))
    if unknown:
        raise ValueError(f"the optimizer of the checkpoint also trained {unknown[0]}")
    places = {names.index(name): values for name, values in state.items()}
    dicts = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": places, "param_groups": dicts})
