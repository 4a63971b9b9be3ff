"""The predictor of I-JEPA, row by row, and what comes in that does not fit."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import sslgraph
from sslgraph.nodes.base import Context, SettingError
from sslgraph.nodes.positions import sincos_table
from sslgraph.ports import Visible
from sslgraph.registry import find


def predictor(**settings: Any) -> Any:
    kept = {"context_mask": Visible(5, 5), "mask": Visible(13, 13)}
    context = Context("predictor", 1, kept=settings.pop("kept", kept))
    settings = {"width": 16, "depth": 2, "heads": 2, **settings}
    axes = {"V": 1, "V'": 3, "N": 5, "D": 12, "G": 16, "B": 2}
    node = find("token_predictor").module(axes=axes, context=context, **settings)
    return node.double()


@pytest.fixture
def masks() -> tuple[Tensor, Tensor]:
    """A context of five places, and three masks of three hidden ones."""
    order = torch.rand(4, 2, 16, generator=torch.Generator().manual_seed(1)).argsort(-1)
    return order[:1] >= 5, order[1:] < 3


@pytest.fixture
def x() -> Tensor:
    generator = torch.Generator().manual_seed(2)
    return torch.randn(1, 2, 5, 12, dtype=torch.float64, generator=generator)


def by_hand(node: Any, x: Tensor, seen: Tensor, hidden: Tensor) -> Tensor:
    """One image, one mask: tokens and learned ones with positions through the blocks."""
    table = sincos_table(4, 4, 16).double()
    context = x @ node.embed.weight.T + node.embed.bias + table[seen]
    asked = torch.stack([node.mask_token[0, 0] + table[place] for place in hidden])
    rows = torch.cat([context, asked])[None]
    for block in node.blocks:
        rows = block(rows)
    y: Tensor = node.norm(rows)[0, len(seen) :] @ node.head.weight.T + node.head.bias
    return y


def test_each_mask_is_a_prediction_of_its_own(x: Tensor, masks: tuple[Tensor, Tensor]) -> None:
    node = predictor()
    made = node(x, *masks)
    assert made.shape == (3, 2, 3, 12)
    for view in range(3):
        for image in range(2):
            seen = (~masks[0][0, image]).nonzero().flatten()
            hidden = masks[1][view, image].nonzero().flatten()
            expected = by_hand(node, x[0, image], seen, hidden)
            torch.testing.assert_close(made[view, image], expected, rtol=1e-10, atol=1e-12)


def regressed(node: Any, x: Tensor, seen: Tensor, hidden: Tensor) -> Tensor:
    """One image as CAE's code has it: positions in queries and keys, a norm on the stream."""
    table = sincos_table(4, 4, 12).double()
    rows = node.mask_token[0, 0].expand(len(hidden), -1)
    for block in node.blocks:
        every, positions = torch.cat([x, rows]), torch.cat([table[seen], table[hidden]])
        q = block.norm_query(rows + table[hidden]) @ block.query.weight.T + block.query.bias
        k = block.norm_key(every + positions) @ block.key.weight.T
        v = block.norm_value(every) @ block.value.weight.T + block.value.bias
        heads = []
        for part in range(0, 12, 6):  # two heads of width 6
            scores = q[:, part : part + 6] @ k[:, part : part + 6].T / 6**0.5
            heads.append(scores.softmax(-1) @ v[:, part : part + 6])
        attended = torch.cat(heads, 1) @ block.proj.weight.T + block.proj.bias
        rows = block.norm(rows + block.gamma_1 * attended)
        rows = rows + block.gamma_2 * block.mlp(rows)
    y: Tensor = node.norm(rows)
    return y


def test_the_regressor_leaves_the_context_as_it_is(x: Tensor, masks: tuple[Tensor, Tensor]) -> None:
    node = predictor(width=12, attention="cross")
    names = dict(node.named_parameters())
    assert not any(name.startswith(("embed", "head")) for name in names)
    torch.testing.assert_close(names["blocks.0.gamma_1"].float(), torch.full((12,), 0.1))
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for value in names.values():
            value.add_(torch.randn(value.shape, generator=generator), alpha=0.3)
    made = node(x, *masks)
    for view in range(3):
        for image in range(2):
            seen = (~masks[0][0, image]).nonzero().flatten()
            hidden = masks[1][view, image].nonzero().flatten()
            expected = regressed(node, x[0, image], seen, hidden)
            torch.testing.assert_close(made[view, image], expected, rtol=1e-9, atol=1e-10)


def test_a_regressor_of_another_width_is_projected(x: Tensor, masks: tuple[Tensor, Tensor]) -> None:
    node = predictor(width=16, attention="cross")
    assert (node.embed.out_features, node.head.out_features) == (16, 12)
    assert node(x, *masks).shape == (3, 2, 3, 12)


def test_first_weights_and_parameters() -> None:
    node = predictor(width=128, depth=3, heads=4)
    for name, value in node.named_parameters():
        if name.endswith("bias"):
            assert not value.any()
        elif "norm" in name:
            assert (value == 1).all()
        else:
            assert value.std().item() == pytest.approx(0.02, rel=0.25), name
    assert "positions" not in node.state_dict()
    assert predictor(out=7).head.out_features == 7


def test_without_a_graph_masks_are_counted(x: Tensor, masks: tuple[Tensor, Tensor]) -> None:
    torch.testing.assert_close(predictor(kept={})(x, *masks), predictor()(x, *masks))


def test_evaluation_has_tokens_of_all_places(masks: tuple[Tensor, Tensor]) -> None:
    node = predictor().eval()
    x = torch.randn(1, 2, 16, 12, dtype=torch.float64)
    made = node(x, masks[0] & False, masks[1] & False)
    assert made.shape == (3, 2, 3, 12)
    assert made.isfinite().all()


def graph(again: dict[str, Any]) -> Any:
    mask = {"use": "random_mask", "in": "view", "patch": 16}
    nodes = {
        "view": {"use": "augment", "in": "batch.image", "views": 1, "size": 64},
        "mask": {**mask, "ratio": 0.75},
        "other": {**mask, "ratio": 0.5},
        "encoder": {
            "use": "encoder",
            "in": {"image": "view", "mask": "mask"},
            "arch": "test_vit",
            "masked": "drop",
        },
        "predictor": {
            "use": "token_predictor",
            "in": {"x": "encoder.tokens", "context_mask": "mask", "mask": "mask"},
            "width": 16,
            "depth": 1,
            "heads": 2,
        },
        "again": {"use": "shared", "of": "predictor", **again},
        "teacher": {"use": "ema", "of": "encoder", "in": "view"},
        "rest": {"use": "gather_tokens", "in": {"x": "teacher.tokens", "mask": "mask"}},
        "loss": {"use": "smooth_l1", "in": {"prediction": "predictor", "target": "rest"}},
    }
    outputs = {"again": "again"}
    return sslgraph.load(
        {"sslgraph": 1, "nodes": nodes, "minimize": {"loss": 1.0}, "outputs": outputs}
    )


def test_a_shared_predictor_predicts_another_number_of_places() -> None:
    again = {"in": {"x": "encoder.tokens", "context_mask": "mask", "mask": "other"}}
    method = sslgraph.compile(graph(again))
    batch = {"batch.image": torch.rand(3, 3, 64, 64), "batch.index": torch.arange(3)}
    for _ in range(2):
        made = method.run(batch, ["predictor", "again", "mask", "other", "encoder.tokens"])
        assert made["predictor"].shape == (1, 3, 12, 64)
        assert made["again"].shape == (1, 3, 8, 64)
        hidden, seen = made["other"][0, 0].nonzero().flatten(), (~made["mask"][0, 0]).nonzero()
        node: Any = method.nodes["predictor"].double()
        tokens = made["encoder.tokens"][0, 0].double()
        expected = by_hand(node, tokens, seen.flatten(), hidden)
        torch.testing.assert_close(made["again"][0, 0].double(), expected, rtol=1e-4, atol=1e-5)
        node.float()
        method.compile(backend="aot_eager", fullgraph=True)


def test_what_does_not_fit() -> None:
    x, nothing = torch.randn(1, 2, 6, 12).double(), torch.zeros(1, 2, 16).bool()
    with pytest.raises(SettingError, match="x has 6 tokens, and context_mask leaves 5 places"):
        predictor()(x, nothing, nothing)
    with pytest.raises(SettingError, match="token_predictor is built for 16 places"):
        predictor().fits({"N": 5, "G": 25})
    review = find("token_predictor").review
    views = {"x": ("a", "b"), "mask": ("a",)}
    assert "masks of 1 views do not fit 2 views of x" in review(None, views)
    assert review(None, {"x": ("a",), "mask": ("b", "c")}) == ""
    wrong = {"in": {"x": "encoder.tokens", "context_mask": "other", "mask": "mask"}}
    problems = [p for p in sslgraph.check(graph(wrong)) if p.severity == "error"]
    assert [(p.code, p.got) for p in problems] == [("E404", "")]
    assert problems[0].title == "again: x has 4 tokens, and context_mask leaves 8 places visible"
