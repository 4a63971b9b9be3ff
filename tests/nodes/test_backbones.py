"""Encoders taken apart: taps, the final norm, masks of BEiT's and Swin's models, frozen parts."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import timm
import torch
from torch import Tensor, nn

import sslgraph
from sslgraph.nodes.base import Context, SettingError
from sslgraph.nodes.positions import sincos_table
from sslgraph.registry import find
from sslgraph.train.export import ExportError, backbone_of

VIT = {"embed_dim": 24, "depth": 3, "num_heads": 2}
PLAIN = ("vit_tiny_patch16_224", VIT)
REGISTERS = ("vit_small_patch14_reg4_dinov2", {**VIT, "patch_size": 16, "init_values": 0.5})
BEIT = ("beit_base_patch16_224", {**VIT, "init_values": 0.1})
SHARED = (
    "beit_base_patch16_224",
    {**VIT, "use_rel_pos_bias": False, "use_shared_rel_pos_bias": True},
)
SWIN = (
    "swin_tiny_patch4_window7_224",
    {"embed_dim": 12, "depths": (1, 2, 1, 1), "num_heads": (1, 2, 2, 2), "window_size": 2},
)


def encoder(model: tuple[str, dict[str, Any]], **settings: Any) -> Any:
    arch, args = model
    args = {**args, **settings.pop("args", {})}
    axes = {"C": 3, "H": 64, "W": 64}
    node = find("encoder").module(
        axes=axes, context=Context("encoder", 1), arch=arch, args=args, **settings
    )
    for name, parameter in node.named_parameters():  # tables of positions begin as zeros
        if "relative_position" in name:
            nn.init.normal_(parameter)
    return node


def plain(node: Any) -> Any:
    """The model as timm runs it, with the node's weights."""
    model: Any = timm.create_model(node.config.arch, **node.model_args)
    model.load_state_dict(node.model.state_dict())
    return model


def hiding(model: Any, hidden: Tensor, token: Tensor) -> Any:
    """The model with a token in the place of some patches, B rows columns, wherever it cuts."""

    def replaced(_: Any, __: Any, patches: Tensor) -> Tensor:
        return torch.where(hidden.reshape(*patches.shape[:-1], 1), token, patches)

    model.patch_embed.register_forward_hook(replaced)
    return model


@pytest.fixture
def image() -> Tensor:
    return torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def some(places: int) -> Tensor:
    draws = torch.rand(3, places, generator=torch.Generator().manual_seed(places))
    return draws.argsort(1) < places // 2


@pytest.mark.parametrize("model", [PLAIN, REGISTERS, BEIT, SHARED])
def test_a_token_in_the_place_of_hidden_patches(
    image: Tensor, model: tuple[str, dict[str, Any]]
) -> None:
    """Class and register tokens and their positions stay as timm has them."""
    node = encoder(model, masked="token")
    mask = some(16)
    expected = hiding(plain(node), mask, node.mask_token[0, 0]).forward_features(image)
    assert not torch.equal(expected, plain(node).forward_features(image))
    torch.testing.assert_close(node(image, mask).sequence, expected)
    prefix = {"vit_small_patch14_reg4_dinov2": 5}.get(model[0], 1)
    torch.testing.assert_close(node(image, mask).tokens, expected[:, prefix:])
    assert torch.equal(node.eval()(image, mask).tokens, node(image).tokens)


def test_a_place_of_swins_mask_covers_its_patches(image: Tensor) -> None:
    """A mask of 32 x 32 pixels hides 8 x 8 patches of 4 x 4 pixels (SimMIM, section 3.2)."""
    node = encoder(SWIN, masked="token")
    mask = torch.tensor([[1, 0, 0, 1], [0, 1, 0, 0], [1, 1, 1, 0]]).bool()
    hidden = np.stack([np.kron(m.reshape(2, 2), np.ones((8, 8))) for m in mask.numpy()]) > 0
    model = hiding(plain(node), torch.from_numpy(hidden), node.mask_token[0, 0])
    expected = model.forward_features(image)  # B 2 2 D
    found = node(image, mask)
    torch.testing.assert_close(found.tokens, expected.flatten(1, 2))
    assert found.tokens.shape == (3, 4, 96)
    pixels = torch.from_numpy(hidden).repeat_interleave(4, 1).repeat_interleave(4, 2)[:, None]
    other = torch.where(pixels, image + 1, image)
    assert torch.equal(node(other, mask).tokens, found.tokens)


def test_no_stochastic_depth_unless_it_is_asked_for(image: Tensor) -> None:
    """timm's Swin drops paths by itself, even where nothing is said."""
    torch.manual_seed(0)
    args: dict[str, Any] = {"num_classes": 0, "img_size": 64, **SWIN[1]}
    own: Any = timm.create_model(SWIN[0], **args)
    assert not torch.equal(own(image), own(image))
    node = encoder(SWIN)
    assert torch.equal(node(image).tokens, node(image).tokens)
    node = encoder(SWIN, drop_path=0.5)
    assert not torch.equal(node(image).tokens, node(image).tokens)
    assert max(_rates(node)) == 0.5


def _rates(node: Any) -> list[float]:
    return [getattr(module, "drop_prob", 0.0) for module in node.model.modules()]


def test_a_coarse_mask_over_a_plain_transformer(image: Tensor) -> None:
    node = encoder(PLAIN, masked="token")
    mask = torch.tensor([[1, 0, 0, 0], [0, 0, 1, 0], [1, 0, 1, 1]]).bool()
    fine = np.stack([np.kron(m.reshape(2, 2), np.ones((2, 2))) for m in mask.numpy()]) > 0
    expected = node(image, torch.from_numpy(fine).flatten(1)).tokens
    assert torch.equal(node(image, mask).tokens, expected)


@pytest.mark.parametrize("model", [PLAIN, REGISTERS, BEIT, SHARED])
@pytest.mark.parametrize("masked", [True, False])
def test_taps_are_what_leaves_the_blocks(
    image: Tensor, model: tuple[str, dict[str, Any]], masked: bool
) -> None:
    node = encoder(model, masked="token", taps=[3, 1])
    mask = some(16) if masked else None
    made: list[Tensor] = []
    reference = plain(node)
    for block in reference.blocks:
        block.register_forward_hook(lambda _, __, y: made.append(y))
    if mask is not None:
        hiding(reference, mask, node.mask_token[0, 0])
    final = reference.forward_features(image)
    outputs = dict(zip(node.declaration.outputs, node(image, mask), strict=True))
    assert list(outputs) == ["embedding", "tokens", "sequence", "tap3", "tap1"]
    front = reference.num_prefix_tokens
    torch.testing.assert_close(outputs["tap1"], made[0][:, front:])
    torch.testing.assert_close(outputs["tap3"], made[2][:, front:])
    torch.testing.assert_close(outputs["sequence"], final)
    torch.testing.assert_close(outputs["embedding"], reference.forward_head(final, pre_logits=True))


def test_taps_of_dropped_places_are_those_that_are_seen(image: Tensor) -> None:
    node = encoder(PLAIN, masked="drop", taps=[2])
    assert node(image, some(16))[3].shape == (3, 8, 24)
    assert node.eval()(image, some(16))[3].shape == (3, 16, 24)


@pytest.mark.parametrize("model", [PLAIN, BEIT, SWIN])
@pytest.mark.parametrize("readout", ["own", "mean"])
def test_without_the_final_norm(
    image: Tensor, model: tuple[str, dict[str, Any]], readout: str
) -> None:
    node = encoder(model, norm="none", readout=readout)
    assert not any(
        name.startswith(("norm.", "fc_norm.")) for name, _ in node.model.named_parameters()
    )
    made: list[Tensor] = []
    ends = node.model.layers if model is SWIN else node.model.blocks[-1]
    ends.register_forward_hook(lambda _, __, y: made.append(y))
    found = node(image)
    if model is SWIN:
        assert torch.equal(found.tokens, made[0].flatten(1, 2))
    else:
        assert torch.equal(found.sequence, made[0])
        pooled = made[0][:, 1:].mean(1) if readout == "mean" or model is BEIT else made[0][:, 0]
        torch.testing.assert_close(found.embedding, pooled)


def test_arguments_of_a_model_without_norm_make_it_again(image: Tensor) -> None:
    node = encoder(PLAIN, norm="none")
    torch.testing.assert_close(plain(node)(image), node(image).embedding)


@pytest.mark.parametrize(("model", "refused"), [(PLAIN, False), (BEIT, True)])
def test_what_timm_can_not_make_is_not_exported(
    model: tuple[str, dict[str, Any]], refused: bool
) -> None:
    arch, args = model
    settings = graph(arch=arch, args=args, norm="none")
    del settings["nodes"]["teacher"]["taps"]
    settings["nodes"]["loss"]["in"]["target"] = "teacher.tokens"
    settings["outputs"] = {"tokens": "encoder.tokens"}
    method = sslgraph.compile(sslgraph.load(settings))
    if not refused:
        made, arguments, _ = backbone_of(method, ("encoder", "tokens"), "encoder.tokens")
        timm.create_model(arch, **arguments).load_state_dict(made.state_dict())
        return
    with pytest.raises(ExportError, match="'norm: none'"):
        backbone_of(method, ("encoder", "tokens"), "encoder.tokens")


def test_frozen_parts_keep_their_weights() -> None:
    node = encoder(PLAIN, freeze=["patch_embed", "pos_embed"])
    still = {name for name, p in node.named_parameters() if not p.requires_grad}
    assert still == {
        "model.patch_embed.proj.weight",
        "model.patch_embed.proj.bias",
        "model.pos_embed",
    }


def test_no_class_token_fixed_positions_and_dropped_places(image: Tensor) -> None:
    """As I-JEPA has its encoder: every row is a place, the norm stands over all of them."""
    node = encoder(
        PLAIN,
        readout="mean",
        position="sincos",
        masked="drop",
        args={"class_token": False, "fc_norm": False},
    )
    model, mask = node.model, some(16)
    assert torch.equal(model.pos_embed[0], sincos_table(4, 4, 24))
    found = node(image, mask)
    x = model.patch_embed(image) + model.pos_embed
    for sample in range(3):
        alone = model.norm(model.blocks(x[sample : sample + 1, ~mask[sample]]))[0]
        torch.testing.assert_close(found.tokens[sample], alone)
        torch.testing.assert_close(found.embedding[sample], alone.mean(0))
    assert torch.equal(found.sequence, found.tokens)


@pytest.mark.parametrize("model", [PLAIN, SHARED])
def test_first_weights_as_in_beit(model: tuple[str, dict[str, Any]]) -> None:
    args = {"embed_dim": 96, "num_heads": 3}
    node = encoder(model, init="beit", masked="token", args=args)
    # a normal cut off at one standard deviation has 0.5396 of its spread
    spread = 0.02 * 0.5396
    seen = 0
    for name, weight in node.named_parameters():
        drawn = weight.ndim > 1 and "relative_position" not in name
        if not drawn:
            continue
        block = int(name.split(".")[2]) + 1 if ".blocks." in name else 0
        last = name.endswith(("attn.proj.weight", "mlp.fc2.weight"))
        factor = 1 / math.sqrt(2 * block) if last else 1.0
        assert weight.abs().max().item() <= 0.02 * factor * (1 + 1e-6), name
        assert weight.std().item() == pytest.approx(spread * factor, rel=0.25), name
        seen += 1
    assert seen >= 3 + 4 * 3  # projection, tokens, four matrices in each of three blocks
    biases = [p for n, p in node.named_parameters() if n.endswith("bias") and "norm" not in n]
    assert not any(bias.any() for bias in biases)


@pytest.mark.parametrize(
    ("model", "settings", "path", "text"),
    [
        (PLAIN, {"taps": [1, 4]}, ("taps", 1), "has no block 4"),
        (SWIN, {"taps": [1]}, ("taps",), "of one list of blocks"),
        (SWIN, {"masked": "drop"}, ("masked",), "for plain vision transformers"),
        (BEIT, {"masked": "drop"}, ("masked",), "for plain vision transformers"),
        (BEIT, {"position": "sincos"}, ("position",), "for plain vision transformers"),
        (SWIN, {"init": "beit"}, ("init",), "of one list of blocks"),
        (("test_resnet", {}), {"norm": "none"}, ("norm",), "VisionTransformer, Beit and Swin"),
        (PLAIN, {"freeze": ["patch_emb"]}, ("freeze", 0), "has no part 'patch_emb' with weights"),
        (PLAIN, {"args": {"class_token": False}}, ("args",), "refuses an argument"),
    ],
)
def test_what_a_model_can_not_do(
    model: tuple[str, dict[str, Any]], settings: dict[str, Any], path: tuple[Any, ...], text: str
) -> None:
    with pytest.raises(SettingError, match=text) as refused:
        encoder(model, **settings)
    assert refused.value.path == path


def test_a_block_is_tapped_once() -> None:
    with pytest.raises(ValueError, match="numbers that differ"):
        encoder(PLAIN, taps=[2, 2])


@pytest.mark.parametrize(
    ("model", "settings", "places"),
    [
        (PLAIN, {"masked": "drop"}, 4),
        (PLAIN, {"masked": "token"}, 12),
        (SWIN, {"masked": "token"}, 9),
    ],
)
def test_masks_of_other_grids(
    model: tuple[str, dict[str, Any]], settings: dict[str, Any], places: int
) -> None:
    node = encoder(model, **settings)
    with pytest.raises(SettingError, match=f"the mask has {places} places"):
        node.fits({"H": 64, "W": 64, "G": places})


def graph(**encoder: Any) -> dict[str, Any]:
    """A student under a mask, whose blocks a slow copy without mask shows."""
    view = {"use": "augment", "in": "batch.image", "views": 1, "size": 64}
    return {
        "sslgraph": 1,
        "nodes": {
            "view": view,
            "mask": {"use": "random_mask", "in": "view", "patch": 16},
            "encoder": {
                "use": "encoder",
                "in": {"image": "view", "mask": "mask"},
                "arch": "vit_tiny_patch16_224",
                "args": VIT,
                "masked": "token",
                **encoder,
            },
            "teacher": {"use": "ema", "of": "encoder", "in": "view", "taps": [2, 3]},
            "loss": {
                "use": "mse",
                "in": {"prediction": "encoder.tokens", "target": "teacher.tap2"},
            },
        },
        "minimize": {"loss": 1.0},
        "outputs": {"tokens": "teacher.encoder.tap3"},
    }


def test_a_copy_may_have_taps_that_its_original_has_not() -> None:
    method = sslgraph.compile(sslgraph.load(graph()))
    made = method.run({"batch.image": torch.rand(2, 3, 64, 64)}, ["teacher.tap2", "teacher.tap3"])
    assert {tuple(value.shape) for value in made.values()} == {(1, 2, 16, 24)}
    assert not torch.equal(made["teacher.tap2"], made["teacher.tap3"])


def test_frozen_parts_need_no_gradient() -> None:
    found = sslgraph.check(sslgraph.load(graph(freeze=["patch_embed"])))
    assert [problem.title for problem in found if problem.severity == "error"] == []


def test_blocks_that_are_not_there_are_refused_at_their_number() -> None:
    found = sslgraph.check(sslgraph.load(graph(taps=[1, 7])))
    problem = next(p for p in found if p.severity == "error")
    assert (problem.code, problem.title) == ("E404", "encoder: vit_tiny_patch16_224 has no block 7")


@pytest.mark.parametrize(("shape", "rates"), [("linear", [0.0, 0.2, 0.4]), ("flat", [0.4] * 3)])
def test_rates_of_stochastic_depth(image: Tensor, shape: str, rates: list[float]) -> None:
    args = {"depth": 3, "patch_size": 4, "embed_dim": 24, "num_heads": 2}
    node: Any = sslgraph.node(
        "encoder",
        arch="vit_tiny_patch16_224",
        drop_path=0.4,
        drop_path_shape=shape,
        args=args,
        axes={"C": 3, "H": 8, "W": 8},
    )
    for block, rate in zip(node.model.blocks, rates, strict=True):
        for path in (block.drop_path1, block.drop_path2):
            assert getattr(path, "drop_prob", 0.0) == pytest.approx(rate)
