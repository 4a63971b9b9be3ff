"""How deep parameters lie in an encoder, for learning rates that decay from block to block."""

from __future__ import annotations

import re
from typing import Any

from timm.models._manipulate import MATCH_PREV_GROUP, group_with_matcher
from torch import nn

_BEHIND = "~"
"""A name that no model has, so that it falls where all goes that lies behind the last block."""


def blocks_behind(module: nn.Module) -> dict[int, int]:
    """How many layers lie behind each parameter of the encoders in a module.

    With L blocks this is L + 1 for what comes before them (embeddings, tokens, a stem), L - l for
    block l, counted from 0, and 0 for what lies behind the last one, the final norm too: the
    exponents of a layer decay (BEiT, appendix H; DINOv2). Which parameters make a block is timm's
    knowledge (`group_matcher`). A parameter beside the model in its node, such as a mask token,
    comes before the blocks.

    Returns:
        By the `id` of a parameter; those of no encoder are not there.
    """
    behind: dict[int, int] = {}
    for owner in module.modules():
        for child in owner.children():
            if not hasattr(child, "group_matcher") or id(next(child.parameters(), None)) in behind:
                continue
            of_child, layers = _of_model(child)
            beside = {id(p): layers for p in owner.parameters(recurse=False)}
            behind |= beside | of_child
    return behind


def _of_model(model: Any) -> tuple[dict[int, int], int]:
    """Layers behind each parameter of one model, and all its layers."""
    named = [*model.named_parameters(), (_BEHIND, None)]
    matcher = _apart(model.group_matcher(coarse=False))
    place: Any = group_with_matcher(iter(named), matcher, reverse=True)
    last = place[_BEHIND]
    return {id(parameter): last - place[name] for name, parameter in named[:-1]}, last


def _apart(matcher: Any) -> Any:
    """The matcher without the rules that count the final norm to the last block."""
    if not isinstance(matcher, dict):
        return matcher
    return {
        name: [rule for rule in rules if not _joins_last(*rule)]
        if isinstance(rules, (list, tuple))
        else rules
        for name, rules in matcher.items()
    }


def _joins_last(pattern: str, suffix: object) -> bool:
    """Whether a rule is for one thing behind all blocks: what counts them names a number."""
    return suffix == MATCH_PREV_GROUP and re.compile(pattern).groups == 0
