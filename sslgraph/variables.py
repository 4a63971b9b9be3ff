"""Variables: `$name` in place of a whole value, replaced after all merging.

| code | what is wrong |
|---|---|
| E025 | a variable that `vars` doesn't have |
| E026 | a variable that refers to itself |
| E027 | a `$` that names no variable |
| W020 | a variable that nothing uses |

A value that can't be replaced stays as it was written; whoever checks it later knows by its `$`
that it was reported.
"""

from __future__ import annotations

import re

from sslgraph.canonical import flow
from sslgraph.errors import Problem, did_you_mean
from sslgraph.limits import MOST_DEPTH
from sslgraph.source import Origin
from sslgraph.tree import Tree, parts, plain

_NAME = re.compile(r"\$([A-Za-z_][A-Za-z0-9_]*)")
_BRACED = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_RAW = ("vars", "presets")


def substitute(top: Tree, before: Tree) -> tuple[Tree, list[Problem]]:
    """The tree with every `$name` outside of `vars` and `presets` replaced.

    Args:
        top: A whole graph.
        before: The same without preset and single settings, which may replace the one use of a
            variable: that is no reason for a warning.
    """
    variables = top.mapping["vars"].mapping if "vars" in top.mapping else {}
    replacer = _Replacer(variables)
    entries = {
        key: child if key in _RAW else replacer.replaced(child, ())
        for key, child in top.mapping.items()
    }
    replacer.problems += _unused((top, before), variables)
    return Tree(entries, top.origin), list(dict.fromkeys(replacer.problems))


class _Replacer:
    def __init__(self, variables: dict[str, Tree]) -> None:
        self.problems: list[Problem] = []
        self._variables = variables
        self._values: dict[str, Tree | None] = {}

    def replaced(self, tree: Tree, chain: tuple[str, ...]) -> Tree:
        """The tree without variables; `chain` names those that are being looked up."""
        value = tree.value
        if isinstance(value, dict):
            return Tree({k: self.replaced(v, chain) for k, v in value.items()}, tree.origin)
        if isinstance(value, list):
            return Tree([self.replaced(v, chain) for v in value], tree.origin)
        if not isinstance(value, str) or not value.startswith("$"):
            return tree
        match = _NAME.fullmatch(value)
        if match is None:
            self.problems.append(_malformed(tree, value))
            return tree
        found = self._lookup(match.group(1), tree, chain)
        return tree if found is None else _used_at(tree, found, self._variables[match.group(1)])

    def _lookup(self, name: str, use: Tree, chain: tuple[str, ...]) -> Tree | None:
        span = use.origin.value
        if name not in self._variables:
            help = did_you_mean(name, self._variables, show="variables")
            self.problems.append(Problem("E025", f"no variable '{name}'", span, help=help))
            return None
        if name in chain or len(chain) > MOST_DEPTH:
            title = f"the variable '{name}' refers to itself"
            if name not in chain:
                title = "variables that refer to variables, too many times"
            way = " -> ".join((*chain[-5:], name))
            self.problems.append(Problem("E026", title, span, got=way))
            return None
        if name not in self._values:
            before = len(self.problems)
            value = self.replaced(self._variables[name], (*chain, name))
            self._values[name] = value if len(self.problems) == before else None
        return self._values[name]


def _used_at(use: Tree, value: Tree, definition: Tree) -> Tree:
    """The value of a variable, with the place of its use and a note on where it comes from."""
    shown = flow(plain(value)) if not isinstance(value.value, dict | list) else "defined"
    note = f"{use.value} is {shown} at {definition.origin.value}"
    return Tree(value.value, Origin(use.origin.key, use.origin.value, note))


def _malformed(tree: Tree, text: str) -> Problem:
    braced = _BRACED.fullmatch(text)
    help = f"write ${braced.group(1)}" if braced else "a variable stands alone, as in 'out: $dim'"
    return Problem("E027", "not the name of a variable", tree.origin.value, help=help)


def _unused(trees: tuple[Tree, ...], variables: dict[str, Tree]) -> list[Problem]:
    used = {
        match.group(1)
        for top in trees
        for _, tree in parts(top)
        if isinstance(tree.value, str) and (match := _NAME.fullmatch(tree.value))
    }
    return [
        Problem(
            "W020",
            f"nothing uses the variable '{name}'",
            tree.origin.key or tree.origin.value,
            help=f"use it as ${name}, or remove it",
            severity="warning",
        )
        for name, tree in variables.items()
        if name not in used
    ]
