"""Node types by name. A family is imported only when a graph uses it.

The shipped types stand in one table, name to module. Others come from a Python file (`load_file`)
or from the entry-point group ``sslgraph.nodes``. YAML names registered types only, never import
paths.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import os
import sys
from collections.abc import Iterable
from importlib.metadata import entry_points
from pathlib import Path

from sslgraph.ports import Declaration

ENTRY_POINTS = "sslgraph.nodes"

SHIPPED = {
    "augment": "sslgraph.nodes.views",
    "multi_crop": "sslgraph.nodes.crops",
    "random_mask": "sslgraph.nodes.masks",
    "block_mask": "sslgraph.nodes.masks",
    "multiblock_mask": "sslgraph.nodes.multiblock",
    "gather_tokens": "sslgraph.nodes.gather",
    "tokenizer": "sslgraph.nodes.tokenizers",
    "hog": "sslgraph.nodes.hog",
    "patchify": "sslgraph.nodes.pixels",
    "mean": "sslgraph.nodes.several",
    "concat": "sslgraph.nodes.several",
    "pool": "sslgraph.nodes.several",
    "encoder": "sslgraph.nodes.encoders",
    "token_decoder": "sslgraph.nodes.decoders",
    "token_predictor": "sslgraph.nodes.predictors",
    "layer_norm": "sslgraph.nodes.norms",
    "projector": "sslgraph.nodes.heads",
    "predictor": "sslgraph.nodes.heads",
    "linear": "sslgraph.nodes.heads",
    "prototypes": "sslgraph.nodes.prototypes",
    "stop_grad": "sslgraph.nodes.flow",
    "ema": "sslgraph.nodes.teachers",
    "shared": "sslgraph.nodes.teachers",
    "frozen": "sslgraph.nodes.frozen",
    "queue": "sslgraph.nodes.memory",
    "nearest": "sslgraph.nodes.nearest",
    "whiten": "sslgraph.nodes.whiten",
    "match": "sslgraph.nodes.matching",
    "center": "sslgraph.nodes.targets",
    "sharpen": "sslgraph.nodes.targets",
    "sinkhorn": "sslgraph.nodes.sinkhorn",
    "kmeans_bank": "sslgraph.nodes.kmeans",
    "nt_xent": "sslgraph.nodes.losses.nt_xent",
    "sup_con": "sslgraph.nodes.losses.sup_con",
    "cosine_regression": "sslgraph.nodes.losses.cosine_regression",
    "info_nce": "sslgraph.nodes.losses.info_nce",
    "cross_entropy": "sslgraph.nodes.losses.cross_entropy",
    "soft_cross_entropy": "sslgraph.nodes.losses.soft_cross_entropy",
    "mse": "sslgraph.nodes.losses.mse",
    "smooth_l1": "sslgraph.nodes.losses.mse",
    "barlow_twins": "sslgraph.nodes.losses.barlow_twins",
    "vicreg": "sslgraph.nodes.losses.vicreg",
    "mean_entropy": "sslgraph.nodes.losses.mean_entropy",
    "koleo": "sslgraph.nodes.losses.koleo",
}
"""Type name -> module that defines it."""

_declared: dict[str, Declaration] = {}


class UnknownNodeTypeError(KeyError):
    """No node type has this name."""


class NodeFileError(ValueError):
    """A file of own nodes can't be used; the text says why and what to do."""


def add(declaration: Declaration) -> None:
    """Register a node type; called when its class is defined.

    Raises:
        ValueError: Another class has this name already.
    """
    shipped = SHIPPED.get(declaration.use)
    if shipped and shipped != declaration.family:
        raise ValueError(
            f"node type '{declaration.use}' is a shipped one (in {shipped}): take another name"
        )
    known = _declared.get(declaration.use)
    home = declaration.module
    if known and (known.module.__module__, known.module.__qualname__) != (
        home.__module__,
        home.__qualname__,
    ):
        raise ValueError(
            f"node type '{declaration.use}' is declared twice: "
            f"in {known.family} and in {declaration.family}"
        )
    _declared[declaration.use] = declaration


def names() -> list[str]:
    """Every name that `use` may have, without importing anything."""
    return sorted({*SHIPPED, *_declared, *(point.name for point in _points())})


def find(use: str) -> Declaration:
    """The declaration of a type; imports its family at the first call.

    Raises:
        UnknownNodeTypeError: No type has this name.
    """
    if use not in _declared:
        _import_family(use)
    if use not in _declared:
        raise UnknownNodeTypeError(use)
    return _declared[use]


def load_file(path: str | Path) -> list[str]:
    """Run a Python file of own node types and return the names that it declares.

    Raises:
        NodeFileError: The file is missing, fails, or declares no node type.
    """
    path = Path(path)
    if not path.is_file():
        raise NodeFileError(f"no file {path}: give the Python file that declares your node types")
    before = set(_declared)
    name = "sslgraph_nodes_" + hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:12]
    if name not in sys.modules:
        _execute(path, name)
    found = [use for use, known in _declared.items() if known.family == name]
    if not found:
        raise NodeFileError(
            f"{path} declares no node type: "
            'write a class such as `class MyNode(sslgraph.Node, use="my_node")`'
        )
    return sorted(found, key=lambda use: (use in before, use))


def _execute(path: Path, name: str) -> None:
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise NodeFileError(f"{path} is no Python file: own node types stand in a .py file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException as failure:
        del sys.modules[name]
        for use in [use for use, known in _declared.items() if known.family == name]:
            del _declared[use]
        if not isinstance(failure, Exception):
            raise
        line = _line_in(path, failure)
        text = failure.msg if isinstance(failure, SyntaxError) else failure
        raise NodeFileError(f"{path}{line}: {type(failure).__name__}: {text}") from failure


def _line_in(path: Path, failure: BaseException) -> str:
    if isinstance(failure, SyntaxError):
        return f":{failure.lineno}"
    traceback, line = failure.__traceback__, 0
    while traceback:
        if traceback.tb_frame.f_code.co_filename == os.path.abspath(path):
            line = traceback.tb_lineno
        traceback = traceback.tb_next
    return f":{line}" if line else ""


def _points() -> Iterable[importlib.metadata.EntryPoint]:
    return entry_points(group=ENTRY_POINTS)


def _import_family(use: str) -> None:
    if use in SHIPPED:
        importlib.import_module(SHIPPED[use])
        return
    for point in _points():
        if point.name == use:
            point.load()
