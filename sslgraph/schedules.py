"""Numbers that change during a run: one grammar for every place that takes one.

    temperature: 0.1                                   a constant
    momentum: {cosine: [0.996, 1.0]}                   from a to b until the end of the run
    weight: {linear: [0, 2], from: 10 epochs, over: 5%, then: {cosine: [2, 0]}}
    temperature: {learned: 0.07, min: 0.01}            a trained scalar

Progress is t = (step - from) / over, cut to [0, 1]: a schedule has its first value at step `from`
and its second one at step `from + over`. Without `over` it lasts until `total_steps`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, GetCoreSchemaHandler, model_validator
from pydantic.annotated_handlers import GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

Unit = Literal["steps", "epochs", "percent"]
Horizon = Literal["total_steps", "steps_per_epoch"]

_TIME = r"[0-9]+(\.[0-9]*)?([eE]\+?[0-9]+)? *(%|steps?|epochs?)"
_TIME_HELP = "a time says its unit: '10 epochs', '5005 steps' or '5%' of the run"


def fault(title: str, *, expected: str = "", help: str = "") -> PydanticCustomError:
    """A validation error whose words reach the user: what is wrong, what is right, what to do."""
    context = {"title": title, "expected": expected, "help": help}
    return PydanticCustomError("sslgraph", "{title}", context)


@dataclass(frozen=True)
class Time:
    """A point or a stretch of a run, always with its unit.

    Args:
        value: How many of the unit; percent may exceed 100 (a horizon longer than the run).
        unit: `steps` of the optimizer, `epochs`, or `percent` of all steps of the run.
    """

    value: float
    unit: Unit

    def __str__(self) -> str:
        if self.unit == "percent":
            return f"{self.value:g}%"
        return f"{self.value:.15g} {self.unit[:-1] if self.value == 1 else self.unit}"

    @property
    def needs(self) -> set[Horizon]:
        """What must be known of a run to turn this into steps."""
        horizons: dict[Unit, set[Horizon]] = {"epochs": {"steps_per_epoch"}}
        return {"total_steps"} if self.unit == "percent" else horizons.get(self.unit, set())

    def steps(self, total_steps: float | None, steps_per_epoch: float | None) -> float:
        """This time in optimizer steps, not rounded.

        Raises:
            ValueError: The horizon that the unit needs is None.
        """
        if self.unit == "steps":
            return self.value
        if self.unit == "epochs":
            return self.value * _known(steps_per_epoch, "steps_per_epoch")
        return self.value / 100 * _known(total_steps, "total_steps")

    @classmethod
    def parse(cls, value: object) -> Time:
        """The time that a YAML scalar such as `10 epochs` stands for.

        Raises:
            PydanticCustomError: The value is not a time; its text is meant for the user.
        """
        if isinstance(value, Time):
            return value
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            raise fault(f"{value:g} has no unit", expected="a time with a unit", help=_TIME_HELP)
        match = re.fullmatch(_TIME, value) if isinstance(value, str) else None
        if match is None or not isinstance(value, str):
            raise fault("not a time", expected="a time with a unit", help=_TIME_HELP)
        number = float(value[: match.start(3)])
        if not math.isfinite(number):
            raise fault("not a finite time", expected="a time with a unit", help=_TIME_HELP)
        unit = match.group(3)
        return cls(number, "percent" if unit == "%" else "epochs" if unit[0] == "e" else "steps")

    @classmethod
    def __get_pydantic_core_schema__(
        cls, source: object, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        text = core_schema.to_string_ser_schema()
        return core_schema.no_info_plain_validator_function(cls.parse, serialization=text)

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        return {"type": "string", "pattern": f"^{_TIME}$", "examples": ["10 epochs", "5%"]}


def _known(value: float | None, name: str) -> float:
    if value is None:
        raise ValueError(f"this schedule needs {name}, which is not known")
    return value


Finite = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Ends = tuple[Finite, Finite]


class Schedule(BaseModel):
    """A number that moves from one value to another, then stays or follows `then`."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        populate_by_name=True,
        defer_build=True,
        json_schema_extra={"oneOf": [{"required": ["cosine"]}, {"required": ["linear"]}]},
    )

    cosine: Ends | None = Field(None, description="from a to b along half a cosine")
    linear: Ends | None = Field(None, description="from a to b along a line")
    from_: Time | None = Field(None, alias="from", description="when it begins to move")
    over: Time | None = Field(None, description="how long it moves; the rest of the run if absent")
    by: Literal["step", "epoch"] = Field("step", description="epoch: constant within an epoch")
    then: Schedule | None = Field(None, description="what follows when it has arrived")

    @model_validator(mode="after")
    def _sound(self) -> Self:
        if (self.cosine is None) == (self.linear is None):
            raise fault(
                "a schedule has one shape",
                expected="one of 'cosine: [a, b]' and 'linear: [a, b]'",
            )
        if self.then is not None and self.over is None:
            raise fault(
                "'then' never begins",
                expected="'over', since a schedule without it lasts until the end of the run",
                help="add 'over: 10 epochs' beside 'then'",
            )
        return self

    @property
    def ends(self) -> tuple[float, float]:
        """The first and the last value, `then` not counted."""
        ends = self.linear if self.cosine is None else self.cosine
        assert ends is not None  # the validator saw to it
        return ends

    def values(self) -> tuple[float, ...]:
        """Both ends of this and of all that follow: every value lies between two of them."""
        return self.ends + (self.then.values() if self.then else ())

    def needs(self) -> set[Horizon]:
        """What must be known of a run before `value` can be asked."""
        needed: set[Horizon] = set() if self.over else {"total_steps"}
        for time in (self.from_, self.over):
            needed |= time.needs if time else set()
        if self.by == "epoch":
            needed.add("steps_per_epoch")
        return needed | (self.then.needs() if self.then else set())

    def value(
        self, step: int, total_steps: int | None = None, steps_per_epoch: int | None = None
    ) -> float:
        """The number at one optimizer step.

        Args:
            step: Optimizer steps done so far: 0 in the first forward pass.
            total_steps: Length of the run, where `needs` asks for it.
            steps_per_epoch: Optimizer steps of an epoch, where `needs` asks for it.

        Raises:
            ValueError: A horizon that `needs` names is None.
        """
        return self._value(step, 0.0, total_steps, steps_per_epoch)

    def _value(
        self, step: int, start: float, total_steps: int | None, steps_per_epoch: int | None
    ) -> float:
        if self.from_ is not None:
            start = self.from_.steps(total_steps, steps_per_epoch)
        if self.over is None:
            over = _known(total_steps, "total_steps") - start
        else:
            over = self.over.steps(total_steps, steps_per_epoch)
        if self.then is not None:
            follows = start + over
            if self.then.from_ is not None:
                follows = self.then.from_.steps(total_steps, steps_per_epoch)
            if step >= follows:
                return self.then._value(step, follows, total_steps, steps_per_epoch)
        now: float = step
        if self.by == "epoch":
            epoch = _known(steps_per_epoch, "steps_per_epoch")
            now = step // epoch * epoch
        return self._between(_progress(now - start, over))

    def _between(self, t: float) -> float:
        first, last = self.ends
        if t in (0.0, 1.0):
            return last if t else first
        if self.cosine is None:
            return first + (last - first) * t
        return last + (first - last) * (1 + math.cos(math.pi * t)) / 2


def _progress(done: float, over: float) -> float:
    if done < 0:
        return 0.0
    return min(1.0, done / over) if over > 0 else 1.0


class Learned(BaseModel):
    """A scalar that the optimizer trains, cut to `min` and `max` after each step."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    learned: Finite = Field(description="where it starts")
    min: Finite | None = None
    max: Finite | None = None

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        low = -math.inf if self.min is None else self.min
        high = math.inf if self.max is None else self.max
        if not low <= self.learned <= high:
            raise fault(
                f"{self.learned:g} is not between min and max", expected="min <= learned <= max"
            )
        return self

    def values(self) -> tuple[float, ...]:
        """The start and those bounds that are given."""
        return tuple(v for v in (self.learned, self.min, self.max) if v is not None)


@dataclass(frozen=True)
class Bounds:
    """Limits of a number that may change: both ends of a schedule keep to them.

    Use as `Annotated[Number, Bounds(gt=0, le=1)]`.
    """

    gt: float | None = None
    ge: float | None = None
    lt: float | None = None
    le: float | None = None

    def __str__(self) -> str:
        signs = {">": self.gt, ">=": self.ge, "<": self.lt, "<=": self.le}
        return " and ".join(f"{sign} {v:g}" for sign, v in signs.items() if v is not None)

    def hold(self, value: float) -> bool:
        """Whether one value keeps to the limits."""
        return not (
            (self.gt is not None and value <= self.gt)
            or (self.ge is not None and value < self.ge)
            or (self.lt is not None and value >= self.lt)
            or (self.le is not None and value > self.le)
        )

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        learnable = Learned in getattr(source, "__args__", ())
        number = core_schema.float_schema(
            strict=True, allow_inf_nan=False, gt=self.gt, ge=self.ge, lt=self.lt, le=self.le
        )
        choices: dict[Any, CoreSchema] = {
            "a number": number,
            "a schedule": self._bounded(handler.generate_schema(Schedule)),
        }
        if learnable:
            choices["a learned number"] = self._bounded(handler.generate_schema(Learned))
        forms = "a number or a schedule such as {cosine: [0.9, 1.0]}"
        return core_schema.tagged_union_schema(
            choices,
            discriminator=_form(learnable),
            custom_error_type="sslgraph",
            custom_error_message="not a number",
            custom_error_context={
                "title": "not a number",
                "expected": forms + (" or {learned: 0.07, min: 0.01}" if learnable else ""),
            },
        )

    def _bounded(self, schema: CoreSchema) -> CoreSchema:
        def check(value: Schedule | Learned) -> Schedule | Learned:
            outside = [v for v in value.values() if not self.hold(v)]
            if outside:
                raise fault(f"{outside[0]:g} is out of bounds", expected=f"every value {self}")
            return value

        return core_schema.no_info_after_validator_function(check, schema)

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        limits = {
            "exclusiveMinimum": self.gt,
            "minimum": self.ge,
            "exclusiveMaximum": self.lt,
            "maximum": self.le,
        }
        number = {"type": "number", **{k: v for k, v in limits.items() if v is not None}}
        forms: list[JsonSchemaValue] = [number]
        assert schema["type"] == "tagged-union"
        for tag, form in schema["choices"].items():
            if tag == "a schedule":
                ends = {"items": number}
                forms.append({**handler(form), "properties": {"cosine": ends, "linear": ends}})
            elif tag == "a learned number":
                keys = dict.fromkeys(("learned", "min", "max"), number)
                forms.append({**handler(form), "properties": keys})
        return {"anyOf": forms}


def _form(learnable: bool) -> Callable[[object], str | None]:
    def form(value: object) -> str | None:
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return "a number"
        if isinstance(value, Learned) or (isinstance(value, Mapping) and "learned" in value):
            return "a learned number" if learnable else None
        return "a schedule" if isinstance(value, (Schedule, Mapping)) else None

    return form


Number = Annotated[float | Schedule, Bounds()]
"""A number or a schedule; limits by `Annotated[Number, Bounds(gt=0)]`."""

LearnableNumber = Annotated[float | Schedule | Learned, Bounds()]
"""A number, a schedule or a trained scalar."""
