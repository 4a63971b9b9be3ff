"""Node types that break what they declare, one way each."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from sslgraph.nodes.base import Node
from sslgraph.nodes.losses.base import Loss
from sslgraph.nodes.losses.pairs import PairLoss
from sslgraph.nodes.ranks import world_size
from sslgraph.nodes.teachers import Ema
from sslgraph.ports import In, Out
from tests import toys


class LeakyStop(Node, use="broken_stop"):
    """Says that it stops gradients."""

    x = In("embedding", "... D")
    y = Out("embedding", "... D")
    stops_gradient = True

    def forward(self, x: Tensor) -> Tensor:
        return x * 1.0


class Hanging(Node, use="broken_hanging"):
    """Subtracts the batch before, which it keeps with its gradient."""

    x = In("embedding", "V B D", at="both")
    y = Out("embedding", "V B D")
    writes = "batch"

    def build(self) -> None:
        self.before: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        return x * 1.0 if self.before is None else x - self.before

    def write(self, x: Tensor) -> None:
        self.before = x


class Dead(Node, use="broken_dead"):
    """A layer whose shift counts for nothing."""

    x = In("embedding", "... D")
    y = Out("embedding", "... D")

    def build(self, D: int) -> None:
        self.layer = nn.Linear(D, D, bias=False)
        self.shift = nn.Parameter(torch.ones(D))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layer(x) + 0 * self.shift
        return y


class ByPlace(Loss, use="broken_by_place"):
    """Weighs images by where they stand in the batch."""

    x = In("embedding", "V B D")

    def forward(self, x: Tensor) -> Tensor:
        weights = torch.arange(x.shape[1], dtype=x.dtype, device=x.device)
        return (x.square().sum(-1) * weights).mean()


class FirstView(Loss, use="broken_first_view"):
    """Counts the first view twice."""

    x = In("embedding", "V B D")

    def forward(self, x: Tensor) -> Tensor:
        return x.square().mean() + x[0].square().mean()


class AnyPair(PairLoss, use="broken_any_pair"):
    """Compares each view with each, whatever its list says."""

    prediction = In("embedding", "V B D")
    target = In("embedding", "V' B D")

    def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
        return torch.stack([(p - t).square().mean() for p in prediction for t in target]).mean()


class NoPair(PairLoss, use="broken_no_pair"):
    """Lists pairs and looks at its views alone."""

    prediction = In("embedding", "V B D")
    target = In("embedding", "V' B D")

    def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
        return prediction.square().mean() + target.square().mean()


class Quarters(Node, use="broken_quarters"):
    """Hides the left half of each image."""

    image = In("image", "V B C H W")
    mask = Out("mask", "V B 4")
    draws = True
    learns = False

    def forward(self, image: Tensor) -> Tensor:
        row = torch.tensor([True, False, True, False], device=image.device)
        return row.expand(*image.shape[:2], 4)

    def evaluate(self, image: Tensor) -> Tensor:
        return torch.zeros(*image.shape[:2], 4, dtype=torch.bool, device=image.device)


class Masked(Node, use="toy_masked"):
    """The mean of the visible pixels, through a layer."""

    image = In("image", "B C H W")
    mask = In("mask", "B G")
    y = Out("embedding", "B 4")

    def build(self, C: int) -> None:
        self.layer = nn.Linear(C, 4)

    def forward(self, image: Tensor, mask: Tensor) -> Tensor:
        side = image.shape[-1] // 2
        grid = mask.view(-1, 2, 2).repeat_interleave(side, 1).repeat_interleave(side, 2)
        y: Tensor = self.layer(self.seen(image, ~grid[:, None]))
        return y

    def seen(self, image: Tensor, visible: Tensor) -> Tensor:
        return (image * visible).mean((-1, -2))


class LeakyMask(Masked, use="broken_mask"):
    """Sees hidden pixels too, a little."""

    def seen(self, image: Tensor, visible: Tensor) -> Tensor:
        return (image * visible).mean((-1, -2)) + 1e-4 * image.mean((-1, -2))


class BlindMask(Masked, use="broken_blind"):
    """Sees the hidden pixels."""

    def seen(self, image: Tensor, visible: Tensor) -> Tensor:
        return (image * ~visible).mean((-1, -2))


class Dice(Node, use="broken_dice"):
    """Noise from the global generator."""

    x = In("embedding", "... D")
    y = Out("embedding", "... D")

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.randn_like(x)


class Counting(Node, use="broken_counting"):
    """Counts its calls, also those of an evaluation, and shows it."""

    x = In("embedding", "... D")
    y = Out("embedding", "... D")

    calls: Tensor

    def build(self) -> None:
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls.add_(1)
        return x + self.calls


class Unsteady(Node, use="broken_unsteady"):
    """Counts evaluations where no state dict sees it."""

    x = In("embedding", "... D")
    y = Out("embedding", "... D")

    def build(self) -> None:
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return x * self.calls


class LateCopy(Ema, use="broken_late_copy"):
    """Follows what its originals were a step ago."""

    def build(self) -> None:
        super().build()
        self.late = [
            weight.detach().clone() for node in self._originals for weight in node.parameters()
        ]

    def write(self) -> None:
        weights = [weight for node in self._originals for weight in node.parameters()]
        for own, late in zip(self.members.parameters(), self.late, strict=True):
            own.data.lerp_(late.to(own.dtype), 1 - float(self.momentum))
        self.late = [weight.detach().clone() for weight in weights]


class OtherStart(Ema, use="broken_start"):
    """Begins unlike its original."""

    def build(self) -> None:
        super().build()
        for weight in self.members.parameters():
            weight.data.add_(0.1)


class Eager(Node, use="broken_eager"):
    """Subtracts the mean of all batches, this one too."""

    x = In("embedding", "V B D", at="both")
    y = Out("embedding", "V B D")
    writes = "batch"

    mean: Tensor

    def build(self, D: int) -> None:
        self.register_buffer("mean", torch.zeros(D))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.mean.lerp_(x.detach().mean((0, 1)), 0.5)
        return x - self.mean

    def write(self, x: Tensor) -> None:
        pass


class Peeking(toys.Memory, use="broken_peeking"):
    """Hands out its rows themselves, which the write then changes."""

    def forward(self) -> Tensor:
        return self.items_kept


class Ahead(Node, use="broken_ahead"):
    """Remembers its own last input in forward, where no buffer shows it."""

    x = In("embedding", "V B D", at="both")
    y = Out("embedding", "V B D")
    writes = "batch"

    def build(self) -> None:
        self.seen = 0.0

    def forward(self, x: Tensor) -> Tensor:
        self.seen += float(x.detach().mean()) if x.device.type != "meta" else 0.0
        return x + self.seen

    def write(self, x: Tensor) -> None:
        pass


class Forgetful(Node, use="broken_forgetful"):
    """Adds how many batches it saw, which no state dict holds."""

    x = In("embedding", "V B D", at="both")
    y = Out("embedding", "V B D")
    writes = "batch"

    count: Tensor

    def build(self) -> None:
        self.register_buffer("count", torch.zeros(()), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return x * (1 + self.count)

    def write(self, x: Tensor) -> None:
        self.count.add_(1)


class Moody(Node, use="broken_moody"):
    """Gives something else at every call, counted over all of its kind."""

    calls = 0

    x = In("embedding", "... D")
    y = Out("embedding", "... D")

    def forward(self, x: Tensor) -> Tensor:
        type(self).calls += 1
        return x + type(self).calls


class Total(Loss, use="broken_total"):
    """Sums over the images of a batch."""

    x = In("embedding", "V B D")

    def forward(self, x: Tensor) -> Tensor:
        return x.square().sum()


class OwnMean(Node, use="broken_own_mean"):
    """Subtracts the mean of the batch, of this process's images, and does not say so."""

    x = In("embedding", "V B D")
    y = Out("embedding", "V B D")

    def forward(self, x: Tensor) -> Tensor:
        return x - x.mean((0, 1))


class OnlyAlone(Node, use="broken_only_alone"):
    """Fails where several processes train together."""

    x = In("embedding", "... D")
    y = Out("embedding", "... D")

    def forward(self, x: Tensor) -> Tensor:
        if world_size() > 1:
            raise RuntimeError("not among others")
        return x


class SaidMean(OwnMean, use="toy_said_mean"):
    """The same, and says whose images it looks at."""

    class Config(Node.Config):
        ranks: str = "own"


class OwnMemory(toys.Memory, use="broken_own_memory"):
    """Stores the keys of its own process only."""

    gathers = {}


class Levels(Loss, use="broken_levels"):
    """Mean square of an embedding, with levels of its own choice."""

    x = In("embedding", "V B D")

    class Config(Node.Config):
        low: float | None = None
        none: float | None = None

    def forward(self, x: Tensor) -> Tensor:
        return 2 + (x - x.mean(1, keepdim=True)).square().mean()

    def floor(self, sizes: Mapping[str, int]) -> float | None:
        low: float | None = self.config.low
        return low

    def chance(self, sizes: Mapping[str, int]) -> float | None:
        none: float | None = self.config.none
        return none


class Narrow(Loss, use="broken_narrow"):
    """Divides by a difference that bfloat16 does not see."""

    x = In("embedding", "V B D")

    def forward(self, x: Tensor) -> Tensor:
        z = nn.functional.normalize(x.flatten(0, 1), dim=-1)
        return (1 / (1 + 1e-4 - (z @ z.T).diagonal())).mean()


class Shortcut(Node, use="broken_shortcut"):
    """Does something else when compiled."""

    x = In("embedding", "... D")
    y = Out("embedding", "... D")

    def forward(self, x: Tensor) -> Tensor:
        return x + 1 if torch.compiler.is_compiling() else x


class Constant(Node, use="broken_constant"):
    """Counts its calls in a number of Python's, so each step is compiled anew."""

    x = In("embedding", "... D")
    y = Out("embedding", "... D")

    def build(self) -> None:
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return x * self.calls
