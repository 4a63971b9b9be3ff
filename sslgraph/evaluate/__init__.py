"""What a representation is worth: kNN, and diagnostics without labels."""

from sslgraph.evaluate.diagnostics import feature_std, rankme
from sslgraph.evaluate.knn import knn_accuracy

__all__ = ["feature_std", "knn_accuracy", "rankme"]
