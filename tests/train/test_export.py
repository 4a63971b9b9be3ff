"""The exported backbone in a fresh timm model: equal features, right preprocessing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors import safe_open
from timm.data.config import resolve_model_data_config

import sslgraph
from sslgraph.train import ExportError, export_backbone

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def compiled(arch: str, *, output: str = "encoder.embedding", **settings: Any) -> sslgraph.Method:
    ops: list[Any] = [{"flip": 0.5}, {"normalize": {"mean": list(MEAN), "std": list(STD)}}]
    graph = sslgraph.load(
        {
            "sslgraph": 1,
            "name": "toy",
            "nodes": {
                "views": {
                    "use": "augment",
                    "in": "batch.image",
                    "views": 2,
                    "size": 64,
                    "ops": settings.pop("ops", ops),
                },
                "encoder": {"use": "encoder", "in": "views", "arch": arch, **settings},
                "projector": {"use": "projector", "in": "encoder.embedding", "out": 4},
                "loss": {"use": "nt_xent", "in": "projector"},
            },
            "minimize": {"loss": 1.0},
            "outputs": {"embedding": output},
            "train": {"steps": 2},
        }
    )
    method = sslgraph.compile(graph, seed=1)
    method.clock.set(total_steps=2, steps_per_epoch=2)
    images = torch.randint(0, 256, (4, 3, 74, 74), dtype=torch.uint8)
    method({"image": images}).loss.backward()  # running statistics are no longer 0 and 1
    return method


@pytest.mark.parametrize(
    ("arch", "settings"),
    [
        ("test_resnet", {}),
        ("test_vit", {}),
        ("test_vit", {"image_size": "dynamic", "readout": "mean"}),
        ("test_convnext", {"drop_path": 0.1}),
    ],
)
def test_a_fresh_timm_model_has_equal_features(
    tmp_path: Path, arch: str, settings: dict[str, Any]
) -> None:
    method = compiled(arch, **settings)
    path = export_backbone(method, tmp_path / "export")
    config = json.loads((path.parent / "config.json").read_text())
    by_folder = timm.create_model(f"local-dir:{path.parent}", pretrained=True)
    by_hand = timm.create_model(
        config["architecture"], checkpoint_path=str(path), **config["model_args"]
    )
    images = torch.rand(3, 3, 64, 64)
    expected = method.outputs({"image": images})["embedding"][0]
    pixels = (images - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    with method.evaluating():
        view = method.run({}, ["views"], {"image": images})["views"][0]
    torch.testing.assert_close(view, pixels, atol=1e-5, rtol=1e-5)
    for model in (by_folder, by_hand):
        with torch.no_grad():
            assert torch.equal(model.eval()(view), expected)


def test_config_says_what_pictures_need(tmp_path: Path) -> None:
    path = export_backbone(compiled("test_resnet"), tmp_path)
    model = timm.create_model(f"local-dir:{tmp_path}", pretrained=True)
    data = resolve_model_data_config(model)  # type: ignore[no-untyped-call]
    assert data["mean"] == pytest.approx(MEAN, abs=1e-5)
    assert data["std"] == pytest.approx(STD, abs=1e-5)
    assert tuple(data["input_size"]) == (3, 64, 64)
    assert data["crop_pct"] == 0.875
    with safe_open(path, "pt") as file:
        assert file.metadata() == {"format": "pt", "source": "encoder.embedding"}
    assert path.stat().st_mode & 0o044


def test_pixels_that_stay_as_they_are(tmp_path: Path) -> None:
    export_backbone(compiled("test_resnet", ops=[{"flip": 0.5}]), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())["pretrained_cfg"]
    assert (config["mean"], config["std"]) == ([0.0] * 3, [1.0] * 3)
    text = (tmp_path / "README.txt").read_text()
    assert len(text.splitlines()) == 6
    assert "encoder.embedding" in text
    assert "Everything that the graph does to pictures is in these numbers." in text


def test_the_readme_can_be_followed(tmp_path: Path) -> None:
    export_backbone(compiled("test_vit"), tmp_path / "export")
    lines = (tmp_path / "export" / "README.txt").read_text().splitlines()
    names: dict[str, Any] = {"timm": timm}
    for line in lines[1:4]:
        code = line.removeprefix("or: ")
        code = code if "=" in code.split("(")[0] else f"model = {code}"
        exec(code, names)
    assert names["model"].num_features == timm.create_model("test_vit").num_features
    assert names["transform"].transforms


def test_a_node_without_timm_model_is_refused(tmp_path: Path) -> None:
    method = compiled("test_resnet", output="projector")
    with pytest.raises(ExportError, match="projector comes from a node of type projector"):
        export_backbone(method, tmp_path / "export")
    assert not (tmp_path / "export").exists()


def test_an_unknown_output_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="no output 'tokens'"):
        export_backbone(compiled("test_resnet"), tmp_path, output="tokens")
