"""Comparing two graphs: nodes added, removed and renamed, wires moved, settings changed."""

from sslgraph.comparing.compare import diff
from sslgraph.comparing.difference import (
    Difference,
    OneSided,
    Renamed,
    SettingChange,
    Value,
    WireChange,
)

__all__ = [
    "Difference",
    "OneSided",
    "Renamed",
    "SettingChange",
    "Value",
    "WireChange",
    "diff",
]
