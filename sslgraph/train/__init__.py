"""Training: from a graph and images to a run folder with a trained encoder."""

from sslgraph.train.export import ExportError, export_backbone
from sslgraph.train.failures import NonFiniteError, RunError
from sslgraph.train.report import Floors, Result
from sslgraph.train.run import resume, run_settings, train

__all__ = [
    "ExportError",
    "Floors",
    "NonFiniteError",
    "Result",
    "RunError",
    "export_backbone",
    "resume",
    "run_settings",
    "train",
]
