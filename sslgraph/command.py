"""What people type to call the program, for the commands that it proposes."""

from __future__ import annotations

import os


def command() -> str:
    """`sslgraph`, or what a script that calls it in its environment says in SSLGRAPH_COMMAND."""
    return os.environ.get("SSLGRAPH_COMMAND", "sslgraph")
