"""The compiled method: training, state, clock, parts, notes on failures, processes."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend

import sslgraph
from sslgraph.errors import GraphError
from sslgraph.loading import load
from sslgraph.method import Method
from tests.conftest import OnRanks
from tests.toys import TWO_VIEWS, compiled, images

MOVING: dict[str, Any] = {
    "views": {"use": "toy_noise", "in": "batch.image"},
    "pixels": {"use": "toy_pixels", "in": "views", "gain": {"linear": [1.0, 2.0]}},
    "head": {"use": "toy_scale", "in": "pixels", "factor": {"cosine": [0.5, 1.0]}},
    "loss": {
        "use": "nt_xent",
        "in": "head",
        "temperature": {"linear": [0.5, 0.1], "over": "2 epochs"},
    },
    "small": {"use": "toy_pull", "in": {"a": "head"}, "weight": {"linear": [0, 1], "by": "epoch"}},
}
WEIGHTS = {"loss": {"cosine": [1.0, 2.0]}, "small": {"linear": [0.1, 0.0]}}

STATEFUL: dict[str, Any] = {
    **TWO_VIEWS,
    "memory": {"use": "toy_memory", "in": "head"},
    "far": {"use": "toy_far", "in": {"a": "head", "items": "memory"}},
    "ticks": {"use": "toy_ticks"},
}


def stateful() -> Method:
    return compiled(
        STATEFUL, {"loss": 1.0, "far": 0.5}, outputs={"embedding": "head", "ticks": "ticks"}
    )


def train(method: nn.Module, inner: Method, steps: int, *, first: int = 0) -> list[float]:
    """Plain gradient descent on images of the step."""
    optimizer = torch.optim.SGD(inner.parameters(), lr=0.1)
    losses = []
    for step in range(first, first + steps):
        optimizer.zero_grad()
        loss = method({"image": images(seed=step)}).loss
        torch.autograd.backward(loss)
        optimizer.step()
        inner.after_step()
        losses.append(loss.item())
    return losses


def state(method: Method) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in method.state_dict().items()}


def node(method: Method, name: str) -> Any:
    """A node module, whose parts the type checker need not know."""
    return method.nodes[name]


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


# -- numbers and the clock ----------------------------------------------------------------------


def test_numbers_follow_the_clock() -> None:
    method = compiled(MOVING, WEIGHTS)
    method.clock.set(total_steps=10, steps_per_epoch=2)
    seen = []
    for step in range(6):
        method.clock.now = step
        values = method({"image": images()})
        terms = values.terms
        first = (1 - torch.cos(torch.tensor(torch.pi * step / 10))) / 2
        weighted = (1 + first) * terms["loss"] + (0.1 - 0.01 * step) * terms["small"]
        assert values.loss.item() == pytest.approx(weighted.item(), rel=1e-5)
        assert node(method, "loss").temperature.item() == pytest.approx(max(0.1, 0.5 - 0.1 * step))
        assert node(method, "pixels").gain.item() == pytest.approx(1 + step / 10)
        assert node(method, "small").weight.item() == pytest.approx(step // 2 * 2 / 10)
        seen.append(values.loss.item())
    assert len(set(seen)) == 6


def test_a_schedule_without_horizon_names_its_line(tmp_path: Any) -> None:
    file = tmp_path / "moving.yaml"
    file.write_text(
        "sslgraph: 1\n"
        "nodes:\n"
        "  views: {use: toy_noise, in: batch.image}\n"
        "  pixels: {use: toy_pixels, in: views, gain: {linear: [1, 2], by: epoch}}\n"
        "  loss: {use: nt_xent, in: pixels}\n"
        "minimize: {loss: {cosine: [0, 1]}}\n"
    )
    method = sslgraph.compile(load(file))
    with pytest.raises(GraphError) as caught:
        method({"image": images()})
    assert str(caught.value) == (
        f"{file}:4:46: error[E402]: pixels.gain follows the run, but its length is not known\n"
        "  |\n"
        "4 |   pixels: {use: toy_pixels, in: views, gain: {linear: [1, 2], by: epoch}}\n"
        "  |                                              ^^^^^^^^^^^^^^^^^^^^^^^^^^^\n"
        "  = expected: steps_per_epoch and total_steps\n"
        "  = help: call method.clock.set(steps_per_epoch=..., total_steps=...) before training\n"
        "\n"
        f"{file}:6:18: error[E402]: minimize.loss follows the run, but its length is not known\n"
        "  |\n"
        "6 | minimize: {loss: {cosine: [0, 1]}}\n"
        "  |                  ^^^^^^^^^^^^^^^^\n"
        "  = expected: total_steps\n"
        "  = help: call method.clock.set(total_steps=...) before training"
    )
    method.clock.set(total_steps=4, steps_per_epoch=2)
    assert method({"image": images()}).loss.item() == 0.0


def test_learned_numbers_keep_their_limits() -> None:
    nodes = {**TWO_VIEWS, "head": {**TWO_VIEWS["head"], "factor": {"learned": 1.0, "max": 1.0}}}
    method = compiled(nodes)
    factor = node(method, "head").factor
    assert isinstance(factor, nn.Parameter)
    with torch.no_grad():
        factor.fill_(3.0)
    method.after_step()
    assert factor.item() == 1.0


def test_a_run_has_at_least_one_step() -> None:
    with pytest.raises(ValueError, match=r"clock.set\(total_steps=0\): a run has at least 1"):
        compiled(TWO_VIEWS).clock.set(total_steps=0)


def test_samples_are_counted_where_the_data_does_not() -> None:
    method = compiled(TWO_VIEWS)
    given = compiled(TWO_VIEWS)
    for start in (0, 5, 10):
        batch = {"image": images()}
        counted = {**batch, "index": torch.arange(start, start + 5)}
        assert torch.equal(method(batch).loss, given(counted).loss)
    method.run({}, ["views"], {"image": images()})  # a look at a part uses no sample up
    assert method.clock.seen == 15
    assert int(method.state_dict()["clock.samples"]) == 15


# -- after_step ---------------------------------------------------------------------------------


def test_a_forgotten_after_step_is_told_once() -> None:
    method = compiled(TWO_VIEWS)
    torch.autograd.backward(method({"image": images()}).loss)
    with pytest.warns(UserWarning, match="without method.after_step") as caught:
        method({"image": images()})
    assert caught[0].filename == __file__
    torch.autograd.backward(method({"image": images()}).loss)
    method({"image": images()})


def test_what_is_no_forgotten_step(recwarn: pytest.WarningsRecorder) -> None:
    method = compiled(TWO_VIEWS)
    method({"image": images()})
    method({"image": images()})  # no backward between
    method.after_step()
    method.clock.set(accumulate=2)
    for _ in range(3):
        for _ in range(2):
            torch.autograd.backward(method({"image": images()}).loss)
        method.after_step()
    torch.autograd.backward(method({"image": images()}).loss)
    method.skip_step()
    torch.autograd.backward(method({"image": images()}).loss)
    method.outputs  # noqa: B018
    assert not recwarn.list


def test_a_skipped_step_advances_nothing() -> None:
    method = compiled(MOVING, WEIGHTS)
    method.clock.set(total_steps=10, steps_per_epoch=2)
    before = method({"image": images()}).loss.item()
    method.skip_step()
    index = torch.arange(5)
    assert method.clock.now == 0
    assert method({"image": images(), "index": index}).loss.item() == before
    method.after_step()
    assert method({"image": images(), "index": index}).loss.item() != before


# -- writes -------------------------------------------------------------------------------------


def test_a_memory_is_read_before_it_is_written() -> None:
    method = stateful()
    first = method({"image": images()})
    assert first.terms["far"].item() == 0.0  # it was empty
    keys = method.run({}, ["head"], {"image": images(), "index": torch.arange(5)})["head"]
    kept = node(method, "memory").items_kept
    assert torch.equal(kept[0], keys.flatten(0, 1)[-6:].detach())
    second = method({"image": images()})
    assert second.terms["far"].item() != 0.0
    torch.autograd.backward(second.loss)  # although the memory was written since


def test_writes_of_a_step_come_after_it() -> None:
    method = stateful()
    for _ in range(3):
        method({"image": images()})
    assert node(method, "ticks").kept.item() == 0
    method.after_step()
    assert node(method, "ticks").kept.item() == 1
    assert method.outputs({"image": images()})["ticks"].item() == 1


def test_evaluation_and_parts_leave_no_trace() -> None:
    method = stateful()
    train(method, method, 2)
    method.nodes["head"].eval()
    before, modes = state(method), [m.training for m in method.modules()]
    one = method.outputs({"image": images()})
    method.run({}, ["loss", "views.1", "memory"], {"image": images()})
    with pytest.raises(ValueError, match="got 1 view"), method.evaluating():
        method({"image": images(), "index": torch.arange(5)})
    assert one["embedding"].shape == (1, 5, 4)
    assert equal(one, method.outputs({"image": images()}))
    assert equal(before, state(method))
    assert modes == [m.training for m in method.modules()]


def test_epoch_writes_come_at_the_end_of_an_epoch() -> None:
    from sslgraph.nodes.base import Node
    from sslgraph.ports import Out

    class Epochs(Node, use="toy_epochs"):
        count = Out("embedding", "1 1 1")
        writes = "epoch"

        def build(self) -> None:
            self.register_buffer("kept", torch.zeros(1, 1, 1))

        def forward(self) -> Tensor:
            kept: Tensor = self.kept  # type: ignore[assignment]
            return kept.clone()

        def write(self) -> None:
            kept: Any = self.kept
            kept.add_(1)

    method = compiled({**TWO_VIEWS, "epochs": {"use": "toy_epochs"}}, outputs={"e": "epochs"})
    with pytest.raises(GraphError, match="epochs follows the run") as caught:
        method({"image": images()})
    assert caught.value.problems[0].code == "E402"
    method.clock.set(steps_per_epoch=2)
    counts = []
    for _ in range(5):
        method.after_step()
        counts.append(int(node(method, "epochs").kept))
    assert counts == [0, 1, 1, 2, 2]


# -- state --------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["state_dict", "deepcopy", "pickle"])
def test_a_run_goes_on_the_same(way: str) -> None:
    whole, half = stateful(), stateful()
    expected = train(whole, whole, 6)
    train(half, half, 3)
    if way == "state_dict":
        other = stateful()
        other.load_state_dict(half.state_dict())
    else:
        other = copy.deepcopy(half) if way == "deepcopy" else pickle.loads(pickle.dumps(half))
    assert train(other, other, 3, first=3) == expected[3:]
    assert equal(state(other), state(whole))
    assert other.clock.now == 6
    assert half.clock.now == 3


def test_seeds_give_weights() -> None:
    from sslgraph.method import compile_graph
    from tests.toys import graph

    torch.manual_seed(1)
    before = torch.get_rng_state()
    first, again = (compile_graph(graph(TWO_VIEWS), seed=3) for _ in range(2))
    other = compile_graph(graph(TWO_VIEWS), seed=4)
    assert torch.equal(torch.get_rng_state(), before)
    assert equal(state(first), state(again))
    assert not torch.equal(node(first, "head").layer.weight, node(other, "head").layer.weight)


def test_untrained_nodes_stay_in_evaluation_but_views_do_not() -> None:
    nodes = {
        **TWO_VIEWS,
        "views": {**TWO_VIEWS["views"], "train": False},
        "pixels": {**TWO_VIEWS["pixels"], "train": False},
    }
    method = compiled(nodes).eval().train()
    assert [method.nodes[n].training for n in ("views", "pixels", "head")] == [True, False, True]
    assert list(method.parameters_by_node()) == ["head"]
    assert method({"image": images()}).loss.isfinite()


# -- parts and errors ---------------------------------------------------------------------------


def test_words_for_what_is_not_there() -> None:
    method = stateful()
    with pytest.raises(GraphError, match="did you mean 'head'"):
        method.run({}, ["haed"], {"image": images()})
    with pytest.raises(GraphError, match="pixels has no output 'maen'"):
        method.run({"pixels.maen": images()}, ["head"])
    with pytest.raises(ValueError, match=r"feed\['views.0'\]: feed a whole port"):
        method.run({"views.0": images()}, ["head"])
    with pytest.raises(ValueError, match="no output 'embeding': did you mean 'embedding'"):
        method.outputs({"image": images()}, ["embeding"])
    with pytest.raises(KeyError, match="no node named 'haed': did you mean 'head'"):
        method.nodes["haed"]
    with pytest.raises(ValueError, match=r"reads batch.image, .* it has nothing"):
        method({})
    with pytest.raises(ValueError, match=r"reads batch.image, .* it has label"):
        method({"label": torch.zeros(5)})
    with pytest.raises(
        ValueError, match=r"batch.image is B C H W, got a tensor of shape \(3, 8, 8"
    ):
        method({"image": images()[0]})
    with pytest.raises(ValueError, match=r"3 channels, got 1: set data.batch.channels=1"):
        method({"image": images()[:, :1]})


def test_images_of_bytes_are_between_0_and_1() -> None:
    method = compiled(TWO_VIEWS, outputs={"views": "views"})
    white = torch.full((2, 3, 8, 8), 255, dtype=torch.uint8)
    assert method.outputs({"image": white})["views"].eq(1).all()


def test_a_failure_names_node_line_and_inputs(tmp_path: Any) -> None:
    file = tmp_path / "breaks.yaml"
    file.write_text(
        "sslgraph: 1\n"
        "nodes:\n"
        "  views: {use: toy_noise, in: batch.image}\n"
        "  print: {use: toy_pixels, in: views}\n"
        "  broken: {use: toy_breaks, in: [print.mean.1, print.mean]}\n"
        "  loss: {use: nt_xent, in: broken}\n"
        "minimize: {loss: 1.0}\n"
    )
    method = sslgraph.compile(load(file))
    with pytest.raises(RuntimeError, match="it broke") as caught:
        method({"image": images()})
    assert caught.value.__notes__ == [
        f"in node 'broken' (toy_breaks), {file}:5:3\n"
        "  x = print.mean.1: float32 (1, 5, 4)\n"
        "  x = print.mean: float32 (2, 5, 4)"
    ]


# -- compilation --------------------------------------------------------------------------------


def test_regions_compile_once_while_every_schedule_runs() -> None:
    torch._dynamo.reset()
    plain, fast = compiled(MOVING, WEIGHTS), compiled(MOVING, WEIGHTS)
    counter = CompileCounterWithBackend("aot_eager")
    fast.compile(backend=counter, fullgraph=True)
    for method in (plain, fast):
        method.clock.set(total_steps=20, steps_per_epoch=4)
    expected, found = train(plain, plain, 20), train(fast, fast, 20)
    assert counter.frame_count == 1
    assert found == pytest.approx(expected, rel=1e-5)
    assert "_region_0" in fast.code


def test_a_compiled_region_gives_equal_gradients_and_writes() -> None:
    torch._dynamo.reset()
    plain, fast = stateful(), stateful()
    fast.compile(backend="aot_eager", fullgraph=True)
    for method in (plain, fast):
        for step in range(2):
            torch.autograd.backward(method({"image": images(seed=step)}).loss)
            method.after_step()
    for (name, a), (_, b) in zip(plain.named_parameters(), fast.named_parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, msg=name)
    assert torch.allclose(node(plain, "memory").items_kept, node(fast, "memory").items_kept)
    assert fast.code.count("def _region") == 1  # the memory is read before, written after


# -- processes ----------------------------------------------------------------------------------


def on_one_rank(rank: int, batches: int) -> tuple[list[float], dict[str, Tensor]]:
    from torch.nn.parallel import DistributedDataParallel

    import tests.toys  # noqa: F401 - its types

    method = stateful()
    wrapped = DistributedDataParallel(method)
    optimizer = torch.optim.SGD(method.parameters(), lr=0.1)
    losses = []
    for step in range(batches):
        optimizer.zero_grad()
        mine = slice(rank * 3, rank * 3 + 3)
        batch = {
            "image": images(6, seed=step)[mine],
            "index": torch.arange(6 * step, 6 * step + 6)[mine],
        }
        loss = wrapped(batch).loss
        torch.autograd.backward(loss)
        optimizer.step()
        method.after_step()
        losses.append(loss.item())
    return losses, state(method)


def test_two_processes_train_like_one(on_ranks: OnRanks) -> None:
    whole = stateful()
    optimizer = torch.optim.SGD(whole.parameters(), lr=0.1)
    expected = []
    for step in range(4):
        optimizer.zero_grad()
        index = torch.arange(6 * step, 6 * step + 6)
        loss = whole({"image": images(6, seed=step), "index": index}).loss
        torch.autograd.backward(loss)
        optimizer.step()
        whole.after_step()
        expected.append(loss.item())
    results = on_ranks(on_one_rank, 4)
    mean = [sum(values) / 2 for values in zip(*(losses for losses, _ in results), strict=True)]
    assert mean == pytest.approx(expected, rel=1e-5)
    for _, found in results:
        for name, value in state(whole).items():
            if name != "nodes.memory.items_kept" and not name.startswith("clock."):
                torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-6, msg=name)
    memories = [found["nodes.memory.items_kept"] for _, found in results]
    assert torch.equal(*memories)


def counted(rank: int) -> list[int]:
    import tests.toys  # noqa: F401 - its types

    method = compiled(TWO_VIEWS)
    seen: list[int] = []
    method.nodes["views"].register_forward_pre_hook(
        lambda module, args: seen.extend(args[1].flatten().tolist())
    )
    for _ in range(2):
        method({"image": images(2)})
    return seen


def test_counted_positions_differ_between_processes(on_ranks: OnRanks) -> None:
    assert on_ranks(counted) == [[0, 1, 4, 5], [2, 3, 6, 7]]


def test_numbers_keep_their_digits_in_half_precision() -> None:
    method = compiled(MOVING, WEIGHTS).to(torch.bfloat16)
    method.clock.set(total_steps=10_000, steps_per_epoch=100)
    method.clock.now = 3_333
    method._turn()
    for hand in method.hands():
        expected = hand.schedule.value(3_333, 10_000, 100)
        assert hand.number.dtype == torch.float32
        assert hand.number.item() == pytest.approx(expected, rel=1e-6), hand.place
