"""Lay out the DOT on standard input and write the picture to standard output; a script of its own.

Runs as a process because Graphviz inside Python may take the process down with it.
"""

from __future__ import annotations

import sys


def main(format_: str) -> None:
    """Lay out one graph.

    Args:
        format_: A format that Graphviz knows; the caller sees to that.
    """
    import pygraphviz

    graph = pygraphviz.AGraph(string=sys.stdin.buffer.read().decode())
    sys.stdout.buffer.write(graph.draw(format=format_, prog="dot"))


if __name__ == "__main__":
    main(sys.argv[1])
