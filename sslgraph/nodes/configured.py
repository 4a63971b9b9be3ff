"""Settings of a node that is made without a graph: what is wrong is said in one line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from sslgraph.errors import did_you_mean
from sslgraph.ports import Declaration


def configured(declared: Declaration, settings: Mapping[str, Any]) -> Any:
    """The validated settings of a node type.

    Raises:
        ValueError: A setting is unknown, missing or out of bounds; all of them are named.
    """
    try:
        return declared.config.model_validate(dict(settings))
    except ValidationError as failure:
        use = declared.use
        lines = []
        for wrong in failure.errors():
            # pydantic names the alternatives of a number in words, such as `a schedule`
            place = ".".join(str(part) for part in wrong["loc"] if " " not in str(part))
            if wrong["type"] == "extra_forbidden":
                hint = did_you_mean(place, declared.config.model_fields, show="settings")
                lines.append(f"{use} has no setting '{place}': {hint}")
            elif wrong["type"] == "sslgraph":
                context = wrong["ctx"]
                facts = [wrong["msg"], context["expected"], context["help"]]
                lines.append(f"{use}.{place}: {': '.join(fact for fact in facts if fact)}")
            else:
                lines.append(f"{use}.{place}: {wrong['msg']}, got {wrong['input']!r}")
        raise ValueError("; ".join(lines)) from None
