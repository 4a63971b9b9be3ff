"""One optimizer step: forward and backward of its batches, clipping, update.

A step whose loss or gradient is not finite changes nothing: the optimizer has not run yet, and what
forward passes wrote (queues, running statistics) is put back.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from sslgraph.hashing import mix, text_key
from sslgraph.method import Method
from sslgraph.train.clipping import Clipping, tensor_norms, total_norm
from sslgraph.train.groups import ParameterGroup, drop_frozen, set_rates
from sslgraph.train.rates import Horizon
from sslgraph.train_spec import TrainSpec

Batch = Mapping[str, Tensor]

_MODEL_KEY = text_key("model")


class Buffers:
    """A second copy of a module's buffers, to undo what a forward pass wrote.

    Args:
        module: Its buffers are looked up now; later changes are in place.
    """

    def __init__(self, module: nn.Module) -> None:
        self._live = list(module.buffers())
        self._kept = [buffer.clone() for buffer in self._live]

    @torch.no_grad()
    def keep(self) -> None:
        """Copy the buffers as they are now."""
        if self._live:
            torch._foreach_copy_(self._kept, self._live)

    @torch.no_grad()
    def put_back(self) -> None:
        """Give the buffers the values they had at the last `keep`."""
        if self._live:
            torch._foreach_copy_(self._live, self._kept)


@dataclass(frozen=True)
class Pass:
    """What the forward and backward passes of one step gave; on the device, nothing was read yet.

    Args:
        loss: Mean over the step's batches, 0-d.
        terms: The same of each loss by name.
        norms: Norm of each gradient before clipping, in the order of the groups.
        norm: Norm of all gradients before clipping, 0-d.
        finite: Whether loss and gradients are finite, 0-d bool.
        rate: The run's learning rate.
    """

    loss: Tensor
    terms: dict[str, Tensor]
    norms: Tensor
    norm: Tensor
    finite: Tensor
    rate: float


class Updater:
    """Does the optimizer steps of a run.

    `begin` and `finish` are apart so that the next batch can be fetched while the device works.

    Args:
        method: The method in training mode, on its device, clock set.
        optimizer: Trains `groups`.
        groups: In the order of the optimizer's groups.
        spec: The run's settings.
        horizon: Length of the run.
        seed: Keys what dropout and its like draw: they use torch's global generator, which is
            seeded anew from seed and step before each forward pass, so a resumed run draws alike.
    """

    def __init__(
        self,
        method: Method,
        optimizer: Optimizer,
        groups: Sequence[ParameterGroup],
        spec: TrainSpec,
        horizon: Horizon,
        seed: int,
    ) -> None:
        self.method = method
        self.optimizer = optimizer
        self.groups = groups
        self.spec = spec
        self.horizon = horizon
        self.seed = seed
        self._buffers = Buffers(method)
        self._clip = Clipping(spec.clip, groups) if spec.clip else None

    def begin(self, batches: Sequence[Batch], step: int) -> Pass:
        """Run forward and backward on the batches of a step.

        Args:
            batches: One or, with accumulation, several; each a mean of its own, all weigh the same.
            step: Optimizer steps done so far.
        """
        self._buffers.keep()
        rate = set_rates(self.optimizer, self.groups, self.spec, step, self.horizon)
        self.optimizer.zero_grad(set_to_none=True)
        losses, terms = [], []
        for number, batch in enumerate(batches):
            _seed_generators(batch, int(mix(self.seed, _MODEL_KEY, step, number)) & (2**63 - 1))
            with self._precision(batch):
                output = self.method(batch)
            (output.loss / len(batches)).backward()
            losses.append(output.loss.detach())
            terms.append({name: term.detach() for name, term in output.terms.items()})
        drop_frozen(self.groups, step)
        norms = tensor_norms(self._gradients(), losses[0])
        norm = total_norm(norms)
        loss = torch.stack(losses).mean()
        means = {name: torch.stack([t[name] for t in terms]).mean() for name in terms[0]}
        return Pass(loss, means, norms, norm, loss.isfinite() & norm.isfinite(), rate)

    def finish(self, done: Pass) -> str:
        """Update the parameters, or give the step up.

        Waits for the device: whether the step is finite decides what comes next.

        Returns:
            Nothing where the step was taken, else what was not finite.
        """
        if not done.finite:
            fault = self._fault(done)
            self.optimizer.zero_grad(set_to_none=True)
            self._buffers.put_back()
            self.method.skip_step()
            return fault
        if self._clip is not None:
            self._clip(done.norms)
        self.optimizer.step()
        self.method.after_step()
        return ""

    def _fault(self, done: Pass) -> str:
        """What was not finite first: a loss, else the gradients."""
        for name, term in done.terms.items():
            if not term.isfinite():
                return f"loss '{name}' is {term.item():g}"
        if not done.loss.isfinite():
            return f"the weighted sum of the losses is {done.loss.item():g}"
        for group in self.groups:
            for name, parameter in zip(group.names, group.parameters, strict=True):
                if parameter.grad is not None and not parameter.grad.isfinite().all():
                    return f"the gradient of {name} is not finite"
        return "the norm of all gradients is too large for float32"

    def _gradients(self) -> list[Tensor]:
        every = (parameter.grad for group in self.groups for parameter in group.parameters)
        return [gradient for gradient in every if gradient is not None]

    def _precision(self, batch: Batch) -> torch.autocast:
        device = next(iter(batch.values())).device.type
        return torch.autocast(device, torch.bfloat16, enabled=self.spec.amp == "bf16")


def _seed_generators(batch: Batch, seed: int) -> None:
    """Seed torch's generators of the CPU and of the batch's device.

    `torch.manual_seed` also visits every kind of device there could be, at many times the cost.
    """
    torch.default_generator.manual_seed(seed)
    device = next(iter(batch.values())).device
    if device.type == "cuda":
        torch.cuda.default_generators[device.index or 0].manual_seed(seed)
