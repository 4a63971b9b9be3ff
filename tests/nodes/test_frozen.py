"""A frozen run against its weights in timm, inside a graph, and what people get wrong."""

from __future__ import annotations

import copy
import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional

import sslgraph
from sslgraph.errors import GraphError, render
from sslgraph.loading import load
from sslgraph.nodes.base import make_node
from sslgraph.spec import Graph
from tests import toys
from tests.nodes.runs import SIDE, finished_run

WIDTH = 96


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finished_run(tmp_path_factory.mktemp("runs") / "teacher-001")


@pytest.fixture
def copied(run: Path, tmp_path: Path) -> Path:
    """The run in a folder that a test may damage."""
    return Path(shutil.copytree(run, tmp_path / "teacher-001"))


def state_of(run: Path) -> dict[str, Tensor]:
    path = run / "checkpoints" / "00000002" / "state.pt"
    state: dict[str, Tensor] = torch.load(path, weights_only=True)["method"]
    return state


def below(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}


def timm_model(run: Path, prefix: str) -> Any:
    model = timm.create_model("test_resnet", num_classes=0)
    model.load_state_dict(below(state_of(run), prefix))
    return model.eval()


def views(count: int = 2, batch: int = 3) -> Tensor:
    return torch.randn(count, batch, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(5))


def student(run: Path, **settings: Any) -> Graph:
    """A graph that learns from the run's embedding."""
    crop = {"views": 2, "size": SIDE, "ops": [{"crop": [0.5, 1.0]}]}
    loss = {"prediction": "head", "target": "teacher.embedding"}
    return load(
        {
            "sslgraph": 1,
            "nodes": {
                "views": {"use": "augment", "in": "batch.image", **crop},
                "teacher": {"use": "frozen", "in": "views", "run": str(run), **settings},
                "encoder": {"use": "encoder", "in": "views", "arch": "test_resnet"},
                "head": {"use": "projector", "in": "encoder.embedding", "out": WIDTH},
                "loss": {
                    "use": "cosine_regression",
                    "in": loss,
                    "pairs": "same",
                    "reduce": "mean",
                },
            },
            "minimize": {"loss": 1.0},
            "outputs": {"taught": "teacher.embedding", "learnt": "head"},
        }
    )


def problem(graph: Graph) -> str:
    """What is wrong with a graph, all of it."""
    return "\n".join(render(found) for found in sslgraph.check(graph))


@pytest.mark.parametrize("training", [True, False])
def test_its_outputs_are_those_of_the_weights_in_evaluation(run: Path, training: bool) -> None:
    node: Any = make_node("frozen", run=str(run))
    node(views())  # builds it
    embedding, tokens = node.train(training)(views())
    model = timm_model(run, "nodes.encoder.model.")
    with torch.no_grad():
        features = model.forward_features(views().flatten(0, 1))
        pooled = model.forward_head(features, pre_logits=True)
    assert torch.equal(embedding, pooled.unflatten(0, (2, 3)))
    rows = features.flatten(2).transpose(1, 2).unflatten(0, (2, 3))
    assert torch.equal(tokens, rows)


def test_fetch_names_more_and_what_a_bare_reference_means(run: Path) -> None:
    node: Any = make_node("frozen", run=str(run), fetch=["slow", "slow.encoder.tokens"])
    _, _, slow, tokens = node(views())
    assert list(node.declaration.outputs) == ["embedding", "tokens", "slow", "slow.encoder.tokens"]
    assert node.declaration.main == "slow"
    model = timm_model(run, "nodes.slow.members.encoder.model.")
    head = nn.Sequential(nn.Linear(WIDTH, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 4)).eval()
    head.load_state_dict(below(state_of(run), "nodes.slow.members.projector.layers."))
    with torch.no_grad():
        expected = head(model(views().flatten(0, 1)))
    assert torch.equal(slow, expected.unflatten(0, (2, 3)))
    assert tokens.shape == (2, 3, 1, WIDTH)


def test_without_fetch_a_bare_reference_means_nothing(run: Path) -> None:
    graph = student(run)
    wrong = load(graph.document.data, set={"nodes.loss.in.target": "teacher"})
    assert "teacher has several outputs and no main one" in problem(wrong)


def test_kinds_axes_and_views_come_from_the_run(run: Path) -> None:
    plan = sslgraph.compile(student(run, fetch="projector")).plan
    ports = plan.step("teacher").declaration.outputs
    shown = {name: str(port) for name, port in ports.items()}
    assert shown["projector"] == "embedding[... 4]"
    assert shown["embedding"].startswith("embedding[V B D")
    assert shown["tokens"].startswith("tokens[V B N")
    assert plan.identities["teacher", "tokens"] == ("views.0", "views.1")


def test_nothing_of_it_changes_while_a_student_learns(run: Path) -> None:
    method = sslgraph.compile(student(run))
    teacher: Any = method.nodes["teacher"]
    before = copy.deepcopy(teacher.state_dict())
    assert "teacher" not in method.parameters_by_node()
    optimizer = torch.optim.SGD(method.parameters(), 0.1, weight_decay=0.1)
    losses = []
    for _ in range(2):
        optimizer.zero_grad()
        step = method({"image": torch.rand(6, 3, 40, 40), "index": torch.arange(6)})
        step.loss.backward()
        optimizer.step()
        method.after_step()
        losses.append(step.loss.item())
    assert losses[0] != losses[1]
    for name, value in teacher.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert all(p.grad is None for p in teacher.parameters())


def test_it_stays_in_evaluation_whatever_is_around_it(run: Path) -> None:
    method = sslgraph.compile(student(run)).train()
    teacher: Any = method.nodes["teacher"]
    for _ in range(2):
        assert teacher.training
        assert not any(module.training for module in teacher.nodes.modules())
        with method.evaluating():
            pass


def test_a_method_with_it_is_saved_pickled_and_copied(run: Path) -> None:
    method = sslgraph.compile(student(run)).eval()
    other = sslgraph.compile(student(run), seed=1).eval()
    other.load_state_dict(method.state_dict())
    image = {"image": torch.rand(2, 3, 40, 40)}
    expected = method.outputs(image)
    for again in (other, pickle.loads(pickle.dumps(method)), copy.deepcopy(method)):
        for name, value in again.outputs(image).items():
            assert torch.equal(value, expected[name])


def test_its_view_in_evaluation_is_that_of_the_graph_around_it(run: Path) -> None:
    method = sslgraph.compile(student(run))
    image = torch.rand(2, 3, 40, 40)
    with method.evaluating():
        view = method.run({"batch.image": image}, ["views"], {"index": torch.arange(2)})["views"]
    found = method.outputs({"image": image})["taught"]
    with torch.no_grad():
        expected = timm_model(run, "nodes.encoder.model.")(view[0])
    assert torch.equal(found, expected[None])


Damage = Callable[[Path], object]


def no_folder(run: Path) -> None:
    shutil.rmtree(run)
    (run.parent / "teacher-002").mkdir()
    (run.parent / "teacher-002" / "graph.yaml").write_text("")


def broken_graph(run: Path) -> None:
    graph = run / "graph.yaml"
    graph.write_text(graph.read_text().replace("use: projector", "use: projektor"))


def other_model(run: Path) -> None:
    graph = run / "graph.yaml"
    graph.write_text(graph.read_text().replace("test_resnet", "test_vit"))


def half_a_checkpoint(run: Path) -> None:
    path = run / "checkpoints" / "00000002" / "state.pt"
    path.write_bytes(path.read_bytes()[:1000])


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (no_folder, ["no folder", "did you mean", "teacher-002'?"]),
        (lambda run: (run / "graph.yaml").unlink(), ["is no run: there is no graph.yaml in it"]),
        (lambda run: shutil.rmtree(run / "checkpoints"), ["has no checkpoint", "run --resume"]),
        (broken_graph, ["no node type 'projektor'", "sslgraph check", "graph.yaml"]),
        (other_model, ["does not fit graph.yaml"]),
        (half_a_checkpoint, ["00000002 is damaged: state.pt has 1000 of"]),
    ],
    ids=["folder", "no run", "checkpoint", "graph", "fit", "damage"],
)
def test_what_may_be_wrong_with_the_run(copied: Path, damage: Damage, words: list[str]) -> None:
    damage(copied)
    report = problem(student(copied))
    assert "nodes.teacher.run: " in report
    for word in words:
        assert word in report
    with pytest.raises(GraphError):
        sslgraph.compile(student(copied))


@pytest.mark.parametrize(
    ("fetch", "words"),
    [
        ("projecter", ["gives no 'projecter'", "did you mean 'projector'?"]),
        (["slow.encoder.taps"], ["gives no 'slow.encoder.taps'", "slow has no output"]),
        ("slow.0", ["takes some views"]),
        ("embedding", ["is an output of the run anyway"]),
        ("loss", ["'loss' is nothing that is made of each image"]),
    ],
)
def test_what_may_be_wrong_with_fetch(run: Path, fetch: Any, words: list[str]) -> None:
    report = problem(student(run, fetch=fetch))
    assert "nodes.teacher.fetch: " in report
    for word in words:
        assert word in report


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"nodes.views.size": 24}, ["views of 32 x 32 pixels", "24 x 24 pixels"]),
        ({"data.batch.channels": 1}, ["views of 3 channels", "1 channels"]),
    ],
)
def test_images_that_are_not_like_the_run(run: Path, changes: Any, words: list[str]) -> None:
    report = problem(load(student(run).document.data, set=changes))
    assert "teacher: the run was trained on" in report
    for word in words:
        assert word in report


def test_runs_that_freeze_each_other(copied: Path) -> None:
    """As an edited graph could say."""
    graph = copied / "graph.yaml"
    text = graph.read_text()
    own = f'  again: {{use: frozen, in: views, run: "{copied}"}}\n'
    graph.write_text(text.replace("nodes:\n", f"nodes:\n{own}", 1))
    assert "freezes a run that freezes it" in problem(student(copied))


def test_a_number_that_followed_the_run_is_not_guessed(copied: Path) -> None:
    graph = copied / "graph.yaml"
    text = graph.read_text()
    assert toys.Scale.declaration.use == "toy_scale"
    soft = "  soft: {use: toy_scale, in: projector, factor: {linear: [1, 2]}, train: false}\n"
    text = text.replace("nodes:\n", f"nodes:\n{soft}", 1)
    graph.write_text(text.replace("outputs: {", "outputs: {soft: soft, ", 1))
    report = problem(student(copied))
    assert "soft.factor follows its run, so its value is not known" in report


def test_json_of_the_run_is_not_needed(copied: Path) -> None:
    """Graph and checkpoint say all."""
    for path in copied.glob("*.json"):
        json.loads(path.read_text())
        path.unlink()
    assert problem(student(copied)) == ""


def test_normalised_once(run: Path) -> None:
    """The run's own normalisation is left out: images come as its views would."""
    node: Any = make_node("frozen", run=str(run), fetch="views")
    *_, seen = node(views())
    assert torch.equal(seen, views())
    assert not torch.equal(functional.normalize(seen, dim=-1), seen)
