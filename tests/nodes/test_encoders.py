"""Encoders that see masks, fixed positions, first weights, and sizes that don't fit."""

from __future__ import annotations

import math
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

import sslgraph
from sslgraph.nodes.base import Context, SettingError, make_node
from sslgraph.nodes.positions import sincos_table
from sslgraph.ports import Visible
from sslgraph.registry import find

WIDTH = 64  # of test_vit, which cuts 64 x 64 pixels into 4 x 4 places


def encoder(size: int = 64, *, kept: int | None = None, **settings: Any) -> Any:
    context = Context("encoder", 1, kept={} if kept is None else {"mask": Visible(kept, kept)})
    axes = {"C": 3, "H": size, "W": size}
    return find("encoder").module(axes=axes, context=context, arch="test_vit", **settings)


@pytest.fixture
def image() -> Tensor:
    return torch.randn(5, 3, 64, 64, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def mask() -> Tensor:
    """Twelve of 16 places are hidden, others in each image."""
    order = torch.rand(5, 16, generator=torch.Generator().manual_seed(1)).argsort(1)
    return order < 12


def by_hand(model: Any, image: Tensor, *, hidden: Tensor, token: Tensor | None) -> list[Tensor]:
    """What the blocks make of each image by itself: of all places or of the visible ones."""
    made = []
    for picture, gone in zip(image, hidden, strict=True):
        tiles = picture.unfold(1, 16, 16).unfold(2, 16, 16)  # C rows columns y x
        pixels = tiles.permute(1, 2, 0, 3, 4).reshape(16, -1)
        x = pixels @ model.patch_embed.proj.weight.flatten(1).T + model.patch_embed.proj.bias
        if token is not None:
            x = torch.stack([token if g else row for g, row in zip(gone, x, strict=True)])
        x = x + model.pos_embed[0, 1:]
        if token is None:
            x = torch.stack([row for g, row in zip(gone, x, strict=True) if not g])
        x = torch.cat([model.cls_token[0] + model.pos_embed[0, :1], x])
        made.append(model.norm(model.blocks(x[None]))[0])
    return made


def test_dropped_places_never_enter_the_blocks(image: Tensor, mask: Tensor) -> None:
    node = encoder(masked="drop")
    counts: list[int] = []
    for block in node.model.blocks:
        block.register_forward_hook(lambda _, x, y: counts.append(y.shape[1]))
    found = node(image, mask)
    assert counts == [5] * len(node.model.blocks)  # four places and the class token
    for sample, expected in enumerate(by_hand(node.model, image, hidden=mask, token=None)):
        torch.testing.assert_close(found.sequence[sample], expected)
        torch.testing.assert_close(found.tokens[sample], expected[1:])
        torch.testing.assert_close(found.embedding[sample], expected[0])


def test_a_learned_vector_stands_in_before_positions(image: Tensor, mask: Tensor) -> None:
    node = encoder(masked="token")
    found = node(image, mask)
    token = node.mask_token[0, 0]
    for sample, expected in enumerate(by_hand(node.model, image, hidden=mask, token=token)):
        torch.testing.assert_close(found.sequence[sample], expected)


@pytest.mark.parametrize(
    ("settings", "std", "most"),
    [
        ({}, 0.02, math.inf),  # SimMIM: N(0, 0.02), cut off at 2 at the most
        ({"init": "beit"}, 0.02 * 0.5396, 0.02),  # BEiT, data2vec: cut off at its own spread
        ({"mask_token": "zeros"}, 0, 0),  # iBOT and DINOv2, in their vision transformers
        ({"init": "beit", "mask_token": "zeros"}, 0, 0),
    ],
)
def test_the_first_value_of_that_vector(
    settings: dict[str, Any], std: float, most: float, image: Tensor, mask: Tensor
) -> None:
    node = encoder(masked="token", **settings)
    assert node.mask_token.std().item() == pytest.approx(std, rel=0.3)
    assert node.mask_token.abs().max() <= most
    node(image, mask).tokens.square().sum().backward()
    assert node.mask_token.grad.any()  # it learns, whatever it begins with


@pytest.mark.parametrize("masked", [None, "drop"])
def test_without_that_vector_nothing_says_how_it_begins(masked: str | None) -> None:
    with pytest.raises(ValueError, match="an encoder that has such a token: 'masked: token'"):
        make_node("encoder", arch="test_vit", masked=masked, mask_token="zeros")


@pytest.mark.parametrize("masked", ["drop", "token"])
def test_pixels_of_hidden_places_have_no_effect(masked: str, image: Tensor, mask: Tensor) -> None:
    node = encoder(masked=masked)
    hidden = mask.view(5, 1, 4, 4).repeat_interleave(16, 2).repeat_interleave(16, 3)
    other = torch.where(hidden, image + 1, image)
    assert torch.equal(node(other, mask).tokens, node(image, mask).tokens)
    assert not torch.equal(node(other, ~mask).tokens, node(image, ~mask).tokens)


@pytest.mark.parametrize("masked", ["drop", "token"])
def test_evaluation_hides_nothing(masked: str, image: Tensor, mask: Tensor) -> None:
    node = encoder(masked=masked).eval()
    found, plain = node(image, mask), node(image)
    assert found.tokens.shape == (5, 16, WIDTH)
    assert torch.equal(found.tokens, plain.tokens)
    assert torch.equal(found.embedding, plain.embedding)


def test_without_a_mask_it_is_the_timm_model(image: Tensor) -> None:
    node = encoder(masked="drop")
    plain: Any = timm.create_model("test_vit", num_classes=0, img_size=64)
    plain.load_state_dict(node.model.state_dict())
    assert torch.equal(node(image).sequence, plain.forward_features(image))
    assert torch.equal(node(image).embedding, plain(image))


@pytest.mark.parametrize("views", [(1, 2), (2, 2)])
def test_views_of_image_and_mask_meet(image: Tensor, mask: Tensor, views: tuple[int, int]) -> None:
    """One view and two masks of it are two calls, as are two views with a mask each."""
    node = encoder(masked="drop")
    images = torch.stack([image, image.flip(3)][: views[0]])
    masks = torch.stack([mask, mask.flip(1)])
    found = node(images, masks).tokens
    for view in range(2):
        alone = node(images[min(view, views[0] - 1)], masks[view]).tokens
        torch.testing.assert_close(found[view], alone)


def test_in_a_graph_the_number_is_known_and_one_region_is_compiled(
    image: Tensor, mask: Tensor
) -> None:
    node = encoder(masked="drop", kept=4)
    expected = node(image, mask).tokens
    torch._dynamo.reset()
    whole: Any = torch.compile(node, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(whole(image, mask).tokens, expected)
    meta = encoder(masked="drop", kept=4).to("meta")
    assert meta(image.to("meta"), mask.to("meta")).tokens.shape == (5, 4, WIDTH)


def test_outside_a_graph_a_ragged_mask_is_refused(image: Tensor, mask: Tensor) -> None:
    mask[0] = False
    with pytest.raises(ValueError, match="some that leave 4 and some that leave 16 visible"):
        encoder(masked="drop")(image, mask)


@pytest.mark.parametrize("arch", ["test_resnet", "deit_tiny_distilled_patch16_224"])
@pytest.mark.parametrize("settings", [{"masked": "drop"}, {"position": "sincos"}])
def test_other_models_take_no_masks(arch: str, settings: dict[str, Any]) -> None:
    with pytest.raises(SettingError, match=f"is for plain vision transformers, and {arch} is none"):
        find("encoder").module(axes={"C": 3, "H": 32, "W": 32}, arch=arch, **settings)


def test_fixed_positions(image: Tensor) -> None:
    node = encoder(position="sincos")
    table = node.model.pos_embed
    assert not table.requires_grad
    assert not table[0, 0].any()  # the class token's row
    assert torch.equal(table[0, 1:], sincos_table(4, 4, WIDTH))
    plain: Any = timm.create_model("test_vit", num_classes=0, img_size=64)
    plain.load_state_dict(node.model.state_dict())
    assert torch.equal(node(image).sequence, plain.forward_features(image))


def test_positions_for_any_size_are_computed_for_it(image: Tensor, mask: Tensor) -> None:
    """A model built for 4 x 4 places sees 2 x 3 of them as one that was built for these."""
    node = encoder(position="sincos", image_size="dynamic", masked="drop")
    small = image[:, :, :32, :48]
    plain: Any = timm.create_model("test_vit", num_classes=0, img_size=(32, 48))
    state = {k: v for k, v in node.model.state_dict().items() if k != "pos_embed"}
    plain.load_state_dict(state, strict=False)
    with torch.no_grad():
        plain.pos_embed[0, 0] = 0
        plain.pos_embed[0, 1:] = sincos_table(2, 3, WIDTH)
    torch.testing.assert_close(node(small).sequence, plain.forward_features(small))
    some = torch.tensor([True, False, True, False, True, True]).expand(5, 6)
    assert node(small, some).tokens.shape == (5, 2, WIDTH)
    torch.testing.assert_close(
        node(image, mask).sequence[0], by_hand(node.model, image, hidden=mask, token=None)[0]
    )


def test_xavier_first_weights() -> None:
    node = encoder(init="xavier")
    model = node.model
    bounds = {name: _bound(module) for name, module in model.named_modules()}
    seen = 0
    for name, module in model.named_modules():
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            weight, bound = module.weight, bounds[name]
            assert weight.abs().max() <= bound
            assert weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.03)
            seen += 1
        if isinstance(module, nn.Linear):
            assert module.bias is not None
            assert not module.bias.any()
    assert seen == 1 + 4 * len(model.blocks)
    assert model.cls_token.std().item() == pytest.approx(0.02, rel=0.3)


def _bound(module: nn.Module) -> float:
    if isinstance(module, nn.Conv2d):  # one linear layer from all pixels of a patch
        return math.sqrt(6 / (module.out_channels + module.weight[0].numel()))
    if isinstance(module, nn.Linear):
        return math.sqrt(6 / (module.in_features + module.out_features))
    return 0.0


def graph(nodes: dict[str, Any], outputs: dict[str, str]) -> sslgraph.Graph:
    view = {"use": "augment", "in": "batch.image", "views": 1, "size": 64}
    head = {"use": "projector", "in": "encoder.embedding", "hidden": [], "out": 4}
    return sslgraph.load(
        {
            "sslgraph": 1,
            "nodes": {"view": view, **nodes, "head": head, "loss": {"use": "mse"}},
            "minimize": {"loss": 1.0},
            "outputs": outputs,
        },
        set={"nodes.loss.in": {"prediction": "head", "target": "head"}},
    )


def test_the_same_weights_under_masks_of_other_counts() -> None:
    """Each place knows the number of its own mask; compiled, nothing is counted."""
    mask = {"use": "random_mask", "in": "view", "patch": 16}
    nodes = {
        "many": {**mask, "ratio": 0.75},
        "few": {**mask, "ratio": 0.25},
        "encoder": {
            "use": "encoder",
            "in": {"image": "view", "mask": "many"},
            "arch": "test_vit",
            "masked": "drop",
        },
        "again": {"use": "shared", "of": "encoder", "in": {"image": "view", "mask": "few"}},
        "slow": {"use": "ema", "of": "encoder", "in": {"image": "view", "mask": "few.visible"}},
        "clean": {"use": "ema", "of": "encoder", "in": "view"},
    }
    outputs = {name: f"{name}.tokens" for name in ("encoder", "again", "slow", "clean")}
    method = sslgraph.compile(graph(nodes, outputs))
    image = torch.rand(3, 3, 64, 64)
    fetch = list(outputs.values())
    for _ in range(2):
        made = method.run({"batch.image": image}, fetch)
        assert [made[name].shape[2] for name in fetch] == [4, 12, 4, 16]
        method.compile(backend="aot_eager", fullgraph=True)
    clean = method.outputs({"image": image})
    assert {value.shape[2] for value in clean.values()} == {16}


def test_masks_of_unlike_counts_are_not_joined() -> None:
    mask = {"use": "random_mask", "in": "view", "patch": 16}
    nodes = {
        "many": {**mask, "ratio": 0.75},
        "few": {**mask, "ratio": 0.25},
        "encoder": {
            "use": "encoder",
            "in": {"image": "view", "mask": ["many", "few"]},
            "arch": "test_vit",
            "masked": "drop",
        },
    }
    problems = [p for p in sslgraph.check(graph(nodes, {})) if p.severity == "error"]
    assert [problem.code for problem in problems] == ["E404"]
    assert "as many places visible in every image" in problems[0].title
    assert problems[0].got == "4 to 12"
