"""Short words for a picture: settings, schedules, numbers of parameters."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from sslgraph.canonical import flow
from sslgraph.plan import Step
from sslgraph.schedules import Learned, Schedule

LONGEST = 36
MOST_DETAILS = 4


def short(text: str, longest: int = LONGEST) -> str:
    """The text on one line, its middle left out where it is long."""
    text = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    if len(text) <= longest:
        return text
    kept = longest - 3
    return f"{text[: kept - kept // 2]}...{text[-(kept // 2) :]}"


def amount(count: int) -> str:
    """A number of parameters with three digits: `512`, `4.20 k`, `23.5 M`, `1.13 G`."""
    if count < 1000:
        return str(count)
    for unit, size in (("k", 10**3), ("M", 10**6), ("G", 10**9)):
        scaled = count / size
        if scaled < 999.5 or unit == "G":
            digits = 2 if scaled < 9.995 else 1 if scaled < 99.95 else 0
            return f"{scaled:.{digits}f} {unit}"
    raise AssertionError("the last unit takes every number")


def number(value: float | Schedule | Learned) -> str:
    """A number that may change: `0.5`, `0.996 -> 1`, `learned, from 0.07`."""
    if isinstance(value, Learned):
        return f"learned, from {value.learned:g}"
    if isinstance(value, Schedule):
        ends = [value.ends[0]]
        part: Schedule | None = value
        while part:
            ends += [end for end in part.ends if end != ends[-1]]
            part = part.then
        return " -> ".join(f"{end:g}" for end in ends)
    return f"{value:g}"


def details(step: Step) -> Iterator[str]:
    """Up to four settings as they were written; those that differ from their default come first."""
    written = list(_settings(step))
    if step.spec.train is not None and not step.trained:
        written.insert(0, ("train: false", True))
    if step.spec.weights:
        written.insert(0, (short(f"weights: {step.spec.weights}"), True))
    # "and 1 more" would save no line
    most = MOST_DETAILS if len(written) > MOST_DETAILS + 1 else len(written)
    ranked = sorted(range(len(written)), key=lambda place: not written[place][1])
    for place in sorted(ranked[:most]):
        yield written[place][0]
    if len(written) > most:
        yield f"and {len(written) - most} more"


def _settings(step: Step) -> Iterator[tuple[str, bool]]:
    """Each written setting in one line, and whether it differs from its default."""
    fields = type(step.config).model_fields
    for name, written in step.spec.settings.items():
        if name in fields and name != "of":
            value, field = getattr(step.config, name), fields[name]
            default = field.get_default(call_default_factory=True)
            differs = field.is_required() or value != default
            yield short(f"{name}: {_setting(value, written)}"), differs


def _setting(value: object, written: object) -> str:
    if isinstance(value, (Schedule, Learned)):
        return number(value)
    if isinstance(written, Mapping):
        plain = not any(isinstance(item, (Mapping, list)) for item in written.values())
        return ", ".join(f"{k} {flow(v)}" if plain else str(k) for k, v in written.items())
    if isinstance(written, list) and any(isinstance(item, Mapping) for item in written):
        return ", ".join(str(next(iter(item), "")) for item in written if isinstance(item, Mapping))
    return flow(written)
