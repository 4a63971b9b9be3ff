"""The trained backbone as a folder that timm loads.

export/backbone.safetensors    weights under timm's names
export/config.json             architecture, arguments and preprocessing, as timm's hub has them
export/README.txt              how to load it
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as serialised
from torch import Tensor, nn

from sslgraph.checks.references import Port
from sslgraph.files import replacing, write_text
from sslgraph.method import Method
from sslgraph.plan import CANVAS

WEIGHTS = "backbone.safetensors"

_INTERPOLATION = "bicubic"  # as folders of images are brought to the canvas


class ExportError(ValueError):
    """What stands behind an output is no timm model."""


@dataclass(frozen=True)
class Preprocessing:
    """What a picture goes through before the encoder sees it.

    Args:
        size: Channels, height and width.
        mean: Subtracted, a number a channel, of pixels in [0, 1].
        std: Divided by.
        exact: Whether evaluation is no more than this; else mean 0 and std 1 stand in.
    """

    size: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    exact: bool


def export_backbone(method: Method, folder: Path, *, output: str = "embedding") -> Path:
    """Write the timm model behind an output of the graph.

    Args:
        method: The trained method.
        folder: Where the files go.
        output: Name under the graph's `outputs`.

    Returns:
        The file of weights.

    Raises:
        ExportError: The graph has no such output, or no timm model makes it.
        WriteError: The disk is full or refuses.
    """
    if output not in method.plan.outputs:
        raise ExportError(f"the graph has no output '{output}'")
    reference = method.graph.outputs[output].text
    source = method.plan.outputs[output].source
    model, arguments, architecture = backbone_of(method, source, reference)
    prepared = preprocessing(method, source[0])
    weights = {
        key: value.detach().cpu().contiguous().clone() for key, value in model.state_dict().items()
    }
    config = timm_config(model, architecture, arguments, prepared)
    path = folder / WEIGHTS
    with replacing(path) as temporary:
        temporary.write_bytes(serialised(weights, {"format": "pt", "source": reference}))
    write_text(folder / "config.json", json.dumps(config, indent=2) + "\n")
    write_text(folder / "README.txt", _readme(folder, reference, config, prepared))
    return path


def backbone_of(
    method: Method, source: Port, reference: str
) -> tuple[nn.Module, dict[str, Any], str]:
    """The timm model behind a port, the arguments it was made with, and its architecture.

    Raises:
        ExportError: There is none.
    """
    name, output = source
    node: Any = method.nodes[name].part(output)
    model: Any = getattr(node, "model", None)
    arguments = getattr(node, "model_args", None)
    architecture = getattr(node.config, "arch", None)
    if not isinstance(model, nn.Module) or arguments is None or architecture is None:
        use = node.declaration.use
        raise ExportError(f"{reference} comes from a node of type {use}, which holds no timm model")
    if getattr(node.config, "stem", "own") != "own":
        raise ExportError(
            f"{reference} has 'stem: {node.config.stem}', with which timm can't make a "
            f"{architecture}; its weights are in the run's checkpoints"
        )
    if getattr(node.config, "norm", "own") == "none" and "final_norm" not in arguments:
        raise ExportError(
            f"{reference} has 'norm: none', with which timm can't make a {architecture}; its "
            "weights are in the run's checkpoints"
        )
    arguments = {key: _plain(value) for key, value in arguments.items()}
    size = getattr(getattr(model, "patch_embed", None), "img_size", None)
    if arguments.get("dynamic_img_size") and size is not None:
        # timm takes another size than the architecture's own where a folder doesn't name one.
        arguments.setdefault("img_size", _plain(size))
    return model, arguments, str(architecture)


def _plain(value: Any) -> Any:
    """A value as JSON has it."""
    return list(value) if isinstance(value, tuple) else value


def timm_config(
    model: nn.Module, architecture: str, arguments: Mapping[str, Any], prepared: Preprocessing
) -> dict[str, Any]:
    """`config.json` as timm reads it from a folder or a hub."""
    known: dict[str, Any] = dict(getattr(model, "pretrained_cfg", None) or {})
    fixed = "img_size" in arguments
    return {
        "architecture": architecture,
        "num_classes": 0,
        "num_features": int(getattr(model, "num_features", 0)),
        "model_args": {**arguments, "num_classes": 0},
        "pretrained_cfg": {
            "num_classes": 0,
            "input_size": list(prepared.size),
            "fixed_input_size": fixed,
            "interpolation": _INTERPOLATION,
            "crop_pct": 1 / CANVAS,
            "crop_mode": "center",
            "mean": list(prepared.mean),
            "std": list(prepared.std),
            "first_conv": known.get("first_conv"),
            "classifier": known.get("classifier"),
            "custom_load": False,
        },
    }


@torch.no_grad()
def preprocessing(method: Method, name: str) -> Preprocessing:
    """Find mean and std from what evaluation makes of plain black, gray and white pictures.

    This asks nothing of the nodes before the encoder but to run.

    Args:
        method: The method.
        name: The node whose first input is looked at.
    """
    step = method.plan.step(name)
    wire = next(iter(step.inputs.values()))[0]
    channels, side = method.graph.data.batch.channels, method.plan.canvas()
    device = method.clock.step.device
    seen = []
    with method.evaluating():
        for level in (0.0, 0.5, 1.0):
            image = torch.full((1, channels, side, side), level, device=device)
            value = method.run({}, [wire.reference.text], {"image": image})[wire.reference.text]
            seen.append(value[0, 0].double().cpu())
    mean, std, exact = _affine(seen)
    size = (channels, *seen[0].shape[-2:])
    return Preprocessing(size, mean, std, exact)


def _affine(seen: Sequence[Tensor]) -> tuple[tuple[float, ...], tuple[float, ...], bool]:
    """Mean and std of `(x - mean) / std`, from its values C H W at x = 0, 1/2 and 1."""
    low, middle, high = (value.mean((1, 2)) for value in seen)
    flat = all(bool((value.amax((1, 2)) - value.amin((1, 2)) < 1e-4).all()) for value in seen)
    straight = bool(torch.allclose((low + high) / 2, middle, atol=1e-4))
    if not flat or not straight or not bool((high > low).all()):
        return (0.0,) * len(low), (1.0,) * len(low), False
    std = 1 / (high - low)
    return _rounded(-low * std), _rounded(std), True


def _rounded(values: Tensor) -> tuple[float, ...]:
    """Float32 results to the decimals that were written."""
    return tuple(round(value, 5) + 0.0 for value in values.tolist())


def _readme(
    folder: Path, reference: str, config: Mapping[str, Any], prepared: Preprocessing
) -> str:
    arguments = ", ".join(f"{key}={value!r}" for key, value in config["model_args"].items())
    lines = [
        f"The encoder behind '{reference}': {config['architecture']}, "
        f"{config['num_features']} features.",
        f'model = timm.create_model("local-dir:{folder}", pretrained=True)',
        f'or: timm.create_model("{config["architecture"]}", {arguments}, '
        f'checkpoint_path="{folder / WEIGHTS}")',
        "transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))",
        f"Pictures: {' x '.join(map(str, prepared.size))} in [0, 1], mean {list(prepared.mean)}, "
        f"std {list(prepared.std)}.",
        "Everything that the graph does to pictures is in these numbers."
        if prepared.exact
        else "The graph does more to pictures than subtract and divide: see graph.yaml.",
    ]
    return "\n".join(lines) + "\n"
