"""The encoders that self-distillation methods name: layers and first weights of the released code.

DINO's and iBOT's vision_transformer.py, EsViT's swin_transformer.py, MSN's src/deit.py, DINOv2's
dinov2/models/vision_transformer.py and dinov2/layers/swiglu_ffn.py.
"""

from __future__ import annotations

import math
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

import sslgraph
from sslgraph.nodes.base import make_node


def built(name: str, **args: Any) -> Any:
    """The encoder of a method for images of 224 pixels."""
    settings = dict(sslgraph.load(name).nodes["encoder"].settings)
    return make_node("encoder", axes={"C": 3, "H": 224, "W": 224}, **{**settings, "args": args})


@pytest.mark.parametrize("name", ["dino", "ibot", "msn", "dinov2"])
def test_blocks_of_a_vision_transformer(name: str) -> None:
    """Norms first, with an epsilon of 1e-6; a bias in front of attention; MLPs of four widths."""
    model = built(name, depth=2, embed_dim=48, num_heads=3).model
    for norm in (model.blocks[0].norm1, model.blocks[0].norm2, model.norm):
        assert isinstance(norm, nn.LayerNorm)
        assert norm.eps == 1e-6
    assert model.blocks[0].attn.qkv.bias is not None
    mlp = model.blocks[0].mlp
    assert mlp.fc1.out_features == 4 * 48
    x = torch.linspace(-3, 3, 61, dtype=torch.float64)
    torch.testing.assert_close(mlp.act(x), x * (1 + (x / math.sqrt(2)).erf()) / 2)


@pytest.mark.parametrize(
    ("name", "rates"),
    [
        ("dino", [0.0, 0.05, 0.1]),
        ("ibot", [0.0, 0.05, 0.1]),
        ("msn", [0.0, 0.0, 0.0]),
        ("dinov2", [0.4, 0.4, 0.4]),
    ],
)
def test_stochastic_depth(name: str, rates: list[float]) -> None:
    """It grows along the blocks, but for DINOv2 with one rate for all; there is none in MSN."""
    model = built(name, depth=3, embed_dim=48, num_heads=3).model
    found = [getattr(block.drop_path1, "drop_prob", 0.0) for block in model.blocks]
    assert found == pytest.approx(rates)


def test_stochastic_depth_of_swin() -> None:
    """Over the 12 blocks of all stages."""
    model = built("esvit", embed_dim=24).model
    blocks = [block for stage in model.layers for block in stage.blocks]
    rates = [getattr(block.drop_path1, "drop_prob", 0.0) for block in blocks]
    assert rates == pytest.approx([0.1 * place / 11 for place in range(12)])


def test_first_weights_of_dinov2() -> None:
    """Layer scale 1e-5, four registers and a class token near 0, no mask token yet."""
    node = built("dinov2", depth=1, embed_dim=384, num_heads=3)
    model = node.model
    for scale in (model.blocks[0].ls1, model.blocks[0].ls2):
        assert torch.equal(scale.gamma.detach(), torch.full((384,), 1e-5))
    assert model.reg_token.shape == (1, 4, 384)
    for token, std in ((model.reg_token, 1e-6), (model.cls_token, 1e-6), (model.pos_embed, 0.02)):
        assert token.std().item() == pytest.approx(std, rel=0.15)
    assert not node.mask_token.any()
    for layer in (model.blocks[0].attn.qkv, model.blocks[0].mlp.fc1):
        assert layer.weight.std().item() == pytest.approx(0.02, rel=0.02)
        assert not layer.bias.any()


def test_registers_have_no_positions_and_are_no_patches() -> None:
    node = built("dinov2", depth=1, embed_dim=48, num_heads=3)
    model = node.model
    seen: list[Tensor] = []
    model.blocks[0].register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    image = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    found = node(image)
    assert torch.equal(seen[0][:, 1:5], model.reg_token)
    assert torch.equal(found.tokens, found.sequence[:, 5:])
    assert torch.equal(found.embedding, found.sequence[:, 0])


def test_gated_layers_have_two_thirds_of_four_widths() -> None:
    """Rounded up to eights: those of the model that DINOv2's file names for ViT-g, 1536 wide."""
    with torch.device("meta"):
        model: Any = timm.create_model("vit_giant_patch14_reg4_dinov2", depth=1)
    hidden = (int(4 * 1536 * 2 / 3) + 7) // 8 * 8
    assert model.blocks[0].mlp.fc2.in_features == hidden == 4096
