"""First layers of residual networks."""

from __future__ import annotations

from torch import nn

from sslgraph.nodes.base import SettingError


def shrink_stem(model: nn.Module, arch: str) -> None:
    """Put a 3 x 3 convolution of stride 1 in the place of the first one, and leave out the pool.

    As residual networks for images of 32 pixels are made (He et al., "Deep Residual Learning",
    section 4.2; the released code of SimCLR and SupCon). First weights are drawn as timm draws
    those of the other convolutions.

    Raises:
        SettingError: The model has no such first layers.
    """
    first, pool = getattr(model, "conv1", None), getattr(model, "maxpool", None)
    if not isinstance(first, nn.Conv2d) or not isinstance(pool, nn.MaxPool2d):
        raise SettingError(
            f"'stem: small' is for residual networks, and {arch} has no such first layers",
            path=("stem",),
            expected="a model of one convolution and a pool at first, such as resnet18 or resnet50",
            help="take such an 'arch', or delete 'stem'",
        )
    bias = first.bias is not None
    small = nn.Conv2d(first.in_channels, first.out_channels, 3, padding=1, bias=bias)
    nn.init.kaiming_normal_(small.weight, mode="fan_out", nonlinearity="relu")
    model.conv1, model.maxpool = small, nn.Identity()
