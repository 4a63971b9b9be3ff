"""The decoder against one image at a time by hand, and its size against the paper's."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from sslgraph.nodes.base import Context, SettingError, make_node
from sslgraph.nodes.positions import sincos_table
from sslgraph.ports import Visible
from sslgraph.registry import find


def decoder(tokens: int, places: int = 16, kept: int | None = None, **settings: Any) -> Any:
    context = Context("decoder", 1, kept={} if kept is None else {"mask": Visible(kept, kept)})
    chosen = {"width": 8, "depth": 2, "heads": 2, "out": 5, **settings}
    axes = {"N": tokens, "D": 6, "G": places}
    return find("token_decoder").module(axes=axes, context=context, **chosen)


def hiding(batch: int, places: int, hidden: int) -> Tensor:
    return torch.rand(batch, places, generator=torch.Generator().manual_seed(2)).argsort(1) < hidden


def by_hand(node: Any, x: Tensor, mask: Tensor, front: int) -> Tensor:
    """One image at a time, one place after the other."""
    made = []
    for tokens, hidden in zip(x, mask, strict=True):
        rows = list(node.embed(tokens))
        visible = iter(rows[front:])
        places = [node.mask_token[0, 0] if gone else next(visible) for gone in hidden]
        whole = torch.stack(places) + sincos_table(4, 4, 8)
        y = torch.cat([torch.stack(rows[:front]), whole]) if front else whole
        for block in node.blocks:
            y = block(y[None])[0]
        made.append(node.head(node.norm(y))[front:])
    return torch.stack(made)


@pytest.mark.parametrize("front", [0, 1, 3])
def test_tokens_stand_where_they_belong(front: int) -> None:
    mask = hiding(4, 16, 12)
    x = torch.randn(4, front + 4, 6)
    node = decoder(front + 4, kept=4)
    found = node(x, mask)
    assert found.shape == (4, 16, 5)
    torch.testing.assert_close(found, by_hand(node, x, mask, front))


def test_in_evaluation_there_are_tokens_of_all_places() -> None:
    node = decoder(5, kept=4).eval()
    nothing = torch.zeros(4, 16, dtype=torch.bool)
    for front in (0, 1):
        x = torch.randn(4, front + 16, 6)
        torch.testing.assert_close(node(x, nothing), by_hand(node, x, nothing, front))


def test_the_size_of_the_published_decoder() -> None:
    """26,008,320 parameters: counted from the widths, and positions that are not trained."""
    node = find("token_decoder").module(
        axes={"N": 50, "D": 768, "G": 196}, width=512, depth=8, heads=16, out={"patch": 16}
    )
    block = 2 * 1024 + (512 * 1536 + 1536) + (512 * 512 + 512) + (2 * 512 * 2048 + 2048 + 512)
    expected = (768 * 512 + 512) + 512 + 8 * block + 1024 + (512 * 768 + 768)
    assert sum(p.numel() for p in node.parameters()) == expected == 26_008_320
    assert {name for name, _ in node.named_buffers()} == {"positions"}
    assert node.blocks[0].attn.num_heads == 16
    assert node.norm.eps == node.blocks[0].norm1.eps == 1e-6


@pytest.mark.parametrize(
    ("out", "width"), [(7, 7), ({"patch": 16}, 768), ({"patch": 4, "channels": 1}, 16)]
)
def test_out_is_a_width_or_a_patch(out: Any, width: int) -> None:
    assert make_node("token_decoder", out=out).config.out == width


@pytest.mark.parametrize("out", [{}, {"patch": 0}, {"patch": 16, "chanels": 1}, {"channels": 3}])
def test_what_is_no_patch(out: Any) -> None:
    with pytest.raises(ValueError, match="not the size of a patch"):
        make_node("token_decoder", out=out)
    with pytest.raises(ValueError, match="not a width: a whole number or a patch"):
        make_node("token_decoder", out="pixels")


@pytest.mark.parametrize(
    ("tokens", "fits"), [(4, True), (5, True), (3, False), (16, False), (17, False)]
)
def test_tokens_that_are_not_those_of_the_mask(tokens: int, fits: bool) -> None:
    node = decoder(tokens, kept=4)
    if fits:
        node.fits({"N": tokens, "G": 16})
        return
    with pytest.raises(SettingError, match=f"x has {tokens} tokens, and the mask leaves 4 of 16"):
        node.fits({"N": tokens, "G": 16})


def test_other_grids() -> None:
    assert decoder(3, places=12, grid=[3, 4])(torch.randn(2, 3, 6), hiding(2, 12, 9)).shape[1] == 12
    with pytest.raises(SettingError, match="a grid of 3 x 3 has not 12 places"):
        decoder(3, places=12)
    with pytest.raises(SettingError, match="token_decoder is built for 16 places"):
        decoder(4).fits({"N": 4, "G": 25})


def test_heads_and_coordinates_share_the_width() -> None:
    with pytest.raises(ValueError, match="a multiple of 'heads' and of 4"):
        make_node("token_decoder", out=3, width=20, heads=3)
