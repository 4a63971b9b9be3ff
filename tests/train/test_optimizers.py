"""Optimizers against numbers worked out by hand and against plain loops."""

from __future__ import annotations

import math
from typing import Literal

import pytest
import torch
from torch import Tensor, nn

from sslgraph.train.groups import ParameterGroup, Rule
from sslgraph.train.optimizers import (
    Larc,
    Lars,
    build_optimizer,
    load_optimizer_state,
    optimizer_state,
)
from sslgraph.train_spec import Scale, TrainSpec

Form = Literal["pre", "post"]


def weight(*values: float) -> nn.Parameter:
    return nn.Parameter(torch.tensor([values]))


def set_gradient(parameter: Tensor, *values: float) -> None:
    parameter.grad = torch.tensor(values).view_as(parameter)


@pytest.mark.parametrize("form", ["pre", "post"])
def test_first_step_by_hand(form: Form) -> None:
    # |w| = 5, d = g + 0.1 w = (1.1, -0.2), |d| = sqrt(1.25), trust = 0.001 * 5 / |d| = 0.0044721
    w = weight(3.0, 4.0)
    set_gradient(w, 0.8, -0.6)
    Lars([w], lr=1.0, weight_decay=0.1, form=form).step()
    moved = torch.tensor([[3.0, 4.0]]) - w.detach()
    torch.testing.assert_close(moved, torch.tensor([[0.004919, -0.000894]]), atol=1e-6, rtol=0)


def reference(form: Form, adapt: bool) -> list[list[float]]:
    """Three steps on one tensor in plain Python, with a learning rate that changes."""
    w, buffer = [3.0, 4.0], [0.0, 0.0]
    path = []
    for lr, g in zip((0.5, 2.0, 1.0), ((0.8, -0.6), (-0.1, 0.3), (0.2, 0.2)), strict=True):
        d = [gi + 0.1 * wi for gi, wi in zip(g, w, strict=True)] if adapt else list(g)
        trust = 0.01 * math.hypot(*w) / math.hypot(*d) if adapt else 1.0
        inner, outer = (lr, 1.0) if form == "pre" else (1.0, lr)
        buffer = [0.9 * b + inner * trust * di for b, di in zip(buffer, d, strict=True)]
        w = [wi - outer * b for wi, b in zip(w, buffer, strict=True)]
        path.append(w)
    return path


@pytest.mark.parametrize("form", ["pre", "post"])
@pytest.mark.parametrize("adapt", [True, False])
def test_three_steps_with_a_changing_rate(form: Form, adapt: bool) -> None:
    w = weight(3.0, 4.0)
    optimizer = Lars(
        [{"params": [w], "weight_decay": 0.1, "adapt": adapt}], trust_coefficient=0.01, form=form
    )
    steps = zip((0.5, 2.0, 1.0), ((0.8, -0.6), (-0.1, 0.3), (0.2, 0.2)), strict=True)
    for (lr, g), expected in zip(steps, reference(form, adapt), strict=True):
        optimizer.param_groups[0]["lr"] = lr
        set_gradient(w, *g)
        optimizer.step()
        torch.testing.assert_close(w.detach()[0], torch.tensor(expected), atol=1e-6, rtol=1e-6)


def test_forms_differ_once_the_rate_changes() -> None:
    assert reference("pre", True)[0] == pytest.approx(reference("post", True)[0])
    assert reference("pre", True)[1] != pytest.approx(reference("post", True)[1], abs=1e-4)


@pytest.mark.parametrize("optimizer", [Lars, Larc])
def test_scale_of_the_gradient_drops_out_without_decay(optimizer: type[Lars | Larc]) -> None:
    moved = []
    for scale in (1.0, 100.0):
        w = weight(3.0, 4.0)
        set_gradient(w, 0.8 * scale, -0.6 * scale)
        optimizer([w], lr=1.0).step()
        moved.append(w.detach())
    torch.testing.assert_close(moved[0], moved[1])


@pytest.mark.parametrize(("w", "g"), [((0.0, 0.0), (0.8, -0.6)), ((3.0, 4.0), (0.0, 0.0))])
def test_trust_is_one_where_a_norm_is_zero(w: tuple[float, ...], g: tuple[float, ...]) -> None:
    parameter = weight(*w)
    set_gradient(parameter, *g)
    Lars([parameter], lr=0.5).step()
    expected = torch.tensor(w) - 0.5 * torch.tensor(g)
    torch.testing.assert_close(parameter.detach()[0], expected)


def test_tensors_of_one_group_have_their_own_trust() -> None:
    together, alone = [weight(3.0, 4.0), weight(30.0, 40.0)], [weight(3.0, 4.0), weight(30.0, 40.0)]
    for w in (*together, *alone):
        set_gradient(w, 0.8, -0.6)
    Lars(together, lr=1.0, weight_decay=0.1).step()
    for w in alone:
        Lars([w], lr=1.0, weight_decay=0.1).step()
    for one, other in zip(together, alone, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("optimizer", [Lars, Larc])
def test_a_tensor_without_gradient_stays(optimizer: type[Lars | Larc]) -> None:
    used, unused = weight(3.0, 4.0), weight(1.0, 1.0)
    set_gradient(used, 0.8, -0.6)
    optimizer([used, unused], lr=1.0, weight_decay=0.1).step()
    assert torch.equal(unused.detach(), torch.tensor([[1.0, 1.0]]))


def test_first_larc_step_by_hand() -> None:
    # |w| = 5, |g| = 1, a = 0.001 * 5 / (1 + 0.1 * 5) = 0.0033333, times g + 0.1 w = (1.1, -0.2)
    w = weight(3.0, 4.0)
    set_gradient(w, 0.8, -0.6)
    Larc([w], lr=1.0, weight_decay=0.1).step()
    moved = torch.tensor([[3.0, 4.0]]) - w.detach()
    torch.testing.assert_close(moved, torch.tensor([[0.003667, -0.000667]]), atol=1e-6, rtol=0)


def test_three_larc_steps_with_a_changing_rate() -> None:
    parameter = weight(3.0, 4.0)
    optimizer = Larc([parameter], weight_decay=0.1, trust_coefficient=0.02)
    w, buffer = [3.0, 4.0], [0.0, 0.0]
    for lr, g in zip((0.5, 2.0, 1.0), ((0.8, -0.6), (-0.1, 0.3), (0.2, 0.2)), strict=True):
        size, slope = math.hypot(*w), math.hypot(*g)
        a = 0.02 * size / (slope + 0.1 * size + 1e-8)
        d = [a * (gi + 0.1 * wi) for gi, wi in zip(g, w, strict=True)]
        buffer = [0.9 * b + di for b, di in zip(buffer, d, strict=True)]
        w = [wi - lr * b for wi, b in zip(w, buffer, strict=True)]
        optimizer.param_groups[0]["lr"] = lr
        set_gradient(parameter, *g)
        optimizer.step()
        torch.testing.assert_close(parameter.detach()[0], torch.tensor(w), atol=1e-6, rtol=1e-6)


def test_larc_is_sgd_on_adapted_gradients() -> None:
    # As apex wraps it: gradients are rewritten, then torch's SGD runs without decay.
    torch.manual_seed(0)
    ours = [nn.Parameter(torch.randn(4, 3)), nn.Parameter(torch.randn(4)), weight(0.0, 0.0)]
    theirs = [nn.Parameter(w.detach().clone()) for w in ours]
    larc = Larc(ours, lr=0.3, weight_decay=0.01)
    sgd = torch.optim.SGD(theirs, lr=0.3, momentum=0.9)
    for _ in range(4):
        for mine, other in zip(ours, theirs, strict=True):
            mine.grad = torch.randn_like(mine)
            other.grad = mine.grad.clone()
            w, g = other.detach().norm(), other.grad.norm()
            if w > 0 and g > 0:
                other.grad += 0.01 * other.detach()
                other.grad *= 0.001 * w / (g + 0.01 * w + 1e-8)
        larc.step()
        sgd.step()
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other)


def test_larc_adapts_tensors_that_are_not_decayed() -> None:
    # `no_decay` takes the decay from a bias, not its factor: 0.001 * 5 / 1
    w = weight(3.0, 4.0)
    set_gradient(w, 0.8, -0.6)
    Larc([{"params": [w], "weight_decay": 0.0, "adapt": False}], lr=1.0).step()
    torch.testing.assert_close(w.detach()[0], torch.tensor([3 - 0.005 * 0.8, 4 + 0.005 * 0.6]))


@pytest.mark.parametrize(("w", "g"), [((0.0, 0.0), (0.8, -0.6)), ((3.0, 4.0), (0.0, 0.0))])
def test_larc_leaves_a_zero_norm_alone(w: tuple[float, ...], g: tuple[float, ...]) -> None:
    parameter = weight(*w)
    set_gradient(parameter, *g)
    Larc([parameter], lr=0.5, weight_decay=0.1).step()
    expected = torch.tensor(w) - 0.5 * torch.tensor(g)  # neither factor nor decay
    torch.testing.assert_close(parameter.detach()[0], expected)


@pytest.mark.parametrize(
    ("spec", "type_name"),
    [
        (TrainSpec(optimizer="sgd", nesterov=True), "SGD"),
        (TrainSpec(optimizer="lars", form="pre"), "Lars"),
        (TrainSpec(optimizer="larc"), "Larc"),
        (TrainSpec(optimizer="adam"), "Adam"),
        (TrainSpec(optimizer="adamw", betas=(0.8, 0.95)), "AdamW"),
    ],
)
def test_state_returns_by_name_and_steps_go_on_equal(spec: TrainSpec, type_name: str) -> None:
    straight, first, second = (weight(3.0, 4.0) for _ in range(3))
    gradients: tuple[tuple[float, ...], ...] = ((0.8, -0.6), (-0.1, 0.3), (0.2, 0.2))

    def run(parameter: nn.Parameter, state: object, steps: slice) -> dict[str, object]:
        group = ParameterGroup(Rule(Scale(scale=1.0), 0.0, True), ["a.w"], [parameter])
        optimizer = build_optimizer(spec, [group])
        assert type(optimizer).__name__ == type_name
        if isinstance(state, dict):
            load_optimizer_state(optimizer, [group], state)
        for g in gradients[steps]:
            optimizer.param_groups[0].update(lr=0.1, weight_decay=0.01)
            set_gradient(parameter, *g)
            optimizer.step()
        return optimizer_state(optimizer, [group])

    run(straight, None, slice(0, 3))
    state = run(first, None, slice(0, 2))
    assert list(state) == ["a.w"]
    with torch.no_grad():
        second.copy_(first)
    run(second, state, slice(2, 3))
    assert torch.equal(straight, second)


@pytest.mark.parametrize("optimizer", ["sgd", "lars", "larc", "adamw"])
def test_the_state_of_a_run_with_a_frozen_tensor_returns(optimizer: str) -> None:
    spec = TrainSpec.model_validate({"optimizer": optimizer})
    frozen, moving = weight(1.0, 2.0), weight(3.0, 4.0)
    group = ParameterGroup(Rule(Scale(scale=1.0), 0.0, True), ["a.w", "b.w"], [frozen, moving])
    first, second = build_optimizer(spec, [group]), build_optimizer(spec, [group])
    set_gradient(moving, 0.8, -0.6)
    first.step()
    state = optimizer_state(first, [group])
    assert list(state) == ["b.w"]
    load_optimizer_state(second, [group], state)
    assert frozen not in second.state
    assert second.state[moving].keys() == first.state[moving].keys()


@pytest.mark.parametrize(("optimizer", "moved"), [("adam", 0.1), ("adamw", 0.3 - 0.1)])
def test_adam_decays_the_gradient_and_adamw_the_weight(optimizer: str, moved: float) -> None:
    # gradient 2, weight -6, decay 0.5, rate 0.1: Adam's first step is -0.1 x sign(2 - 3)
    # = 0.1; AdamW's is -0.1 x sign(2) beside the decay of w by 0.05 x 6 = 0.3
    w = weight(-6.0)
    group = ParameterGroup(Rule(Scale(scale=1.0), 0.5, True), ["a.w"], [w])
    built = build_optimizer(TrainSpec.model_validate({"optimizer": optimizer}), [group])
    built.param_groups[0].update(lr=0.1, weight_decay=0.5)
    set_gradient(w, 2.0)
    built.step()
    assert w.item() == pytest.approx(-6 + moved)


def test_the_state_of_an_unknown_parameter_is_refused() -> None:
    group = ParameterGroup(Rule(Scale(scale=1.0), 0.0, True), ["a.w"], [weight(1.0)])
    optimizer = build_optimizer(TrainSpec(), [group])
    with pytest.raises(ValueError, match=r"also trained b\.w"):
        load_optimizer_state(optimizer, [group], {"b.w": {}})


def test_a_run_that_trains_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="no parameter is trained"):
        build_optimizer(TrainSpec(), [])
