"""Which shipped methods the tests that take long look at: three of each family, or all of them.

All run where the environment says `SSLGRAPH_ALL_METHODS=1`.
"""

from __future__ import annotations

import os
from collections import defaultdict

import sslgraph
from sslgraph.loading import shipped_methods

EACH = 3
# Together they hold most node types: queues, slow copies, banks, masks of both kinds, crops.
FIRST = ("moco_v2", "byol", "barlow_twins", "dino", "dinov2", "msn", "mae", "beit", "maskfeat")


def chosen() -> list[str]:
    """The names, sorted."""
    if os.environ.get("SSLGRAPH_ALL_METHODS"):
        return sorted(shipped_methods())
    families: dict[str, list[str]] = defaultdict(list)
    for name in sorted(shipped_methods(), key=lambda name: (name not in FIRST, name)):
        families[sslgraph.load(name).family].append(name)
    return sorted(name for names in families.values() for name in names[:EACH])
