"""Lists of operations that groups of crops share, with values of each group's own.

In the place of any value may stand `{global: ..., local: ...}`, one value a group; each of these
may be `{each: [...]}`, one value a view of that group. Every group is resolved to a plain list
before anything else looks at it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import GetCoreSchemaHandler, ValidationError
from pydantic.annotated_handlers import GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, InitErrorDetails, PydanticCustomError, core_schema

from sslgraph.errors import did_you_mean
from sslgraph.nodes.ops.setting import OpSetting, each_of, is_each, moved, op_name, schema_of_ops
from sslgraph.schedules import fault

Place = tuple[str | int, ...]


@dataclass(frozen=True)
class GroupedOp:
    """An operation for several groups; use it as ``ops: list[GroupedOp]`` in a node's `Config`.

    Args:
        written: The mapping it was parsed from.
    """

    written: Mapping[str, Any]

    @property
    def name(self) -> str:
        """The operation's name."""
        return op_name(self.written)

    def __hash__(self) -> int:
        return hash(self.name)

    @classmethod
    def parse(cls, value: object) -> GroupedOp:
        """The entry that a YAML mapping stands for; its values are seen to once groups are known.

        Raises:
            PydanticCustomError: It names no operation.
        """
        if isinstance(value, GroupedOp):
            return value
        op_name(value)
        assert isinstance(value, Mapping)
        return cls(dict(value))

    @classmethod
    def __get_pydantic_core_schema__(
        cls, source: object, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        as_written = core_schema.plain_serializer_function_ser_schema(lambda op: dict(op.written))
        return core_schema.no_info_plain_validator_function(cls.parse, serialization=as_written)

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        return schema_of_ops(_forms)


def _forms(item: JsonSchemaValue) -> list[JsonSchemaValue]:
    """By group anything is allowed: spelt out for every value it would double the schema."""
    by_group = {
        "type": "object",
        "description": "one value a group",
        "minProperties": 1,
        "not": {"required": ["each"]},
    }
    return [item, each_of(item), by_group]


def ops_of_groups(
    entries: Sequence[GroupedOp], groups: Mapping[str, int]
) -> dict[str, list[OpSetting]]:
    """The list of each group.

    Args:
        entries: The common list.
        groups: Groups that it is for -> their number of views.

    Raises:
        ValidationError: Something in it is wrong; `errors()` gives the places in the list.
    """
    lists: dict[str, list[OpSetting]] = {group: [] for group in groups}
    wrong: dict[tuple[Place, str], InitErrorDetails] = {}
    for at, entry in enumerate(entries):
        found = list(_wrong_groups(entry, groups))
        for group, views in groups.items() if not found else ():
            setting, faults = _of_group(entry, group, views, groups)
            found += faults
            if setting:
                lists[group].append(setting)
        for line in found:
            place = (at, *line.get("loc", ()))
            wrong.setdefault((place, str(line["type"])), {**line, "loc": place})
    if wrong:
        raise ValidationError.from_exception_data("ops", list(wrong.values()))
    return lists


def _is_by_group(value: object, groups: Collection[str]) -> bool:
    return isinstance(value, Mapping) and any(group in value for group in groups)


def _wrong_groups(entry: GroupedOp, groups: Collection[str]) -> Iterator[InitErrorDetails]:
    """Values by group that name another one, or leave one out."""
    for key, value in entry.written.items():
        if not _is_by_group(value, groups):
            continue
        unknown = [group for group in value if group not in groups]
        for group in unknown:
            text = fault(
                f"there is no group '{group}' here",
                expected=" or ".join(groups),
                help=did_you_mean(str(group), groups, show="groups that share this list"),
            )
            yield InitErrorDetails(type=text, loc=(key, group), input=value)
        missing = [group for group in groups if group not in value]
        if missing and not unknown:
            text = fault(
                f"no value for {' and '.join(repr(group) for group in missing)}",
                expected="one value for each group that shares this list",
                help=f"add '{missing[0]}: ...'",
            )
            yield InitErrorDetails(type=text, loc=(key,), input=value)


def _of_group(
    entry: GroupedOp, group: str, views: int, groups: Collection[str]
) -> tuple[OpSetting | None, list[InitErrorDetails]]:
    """The entry with the values of one group, or what is wrong with them."""
    written, places = {}, {}
    for key, value in entry.written.items():
        by_group = _is_by_group(value, groups)
        written[key] = value[group] if by_group else value
        places[key] = (key, group) if by_group else (key,)
    try:
        setting = OpSetting.parse(written)
    except ValidationError as error:
        found = [(d, d["loc"]) for d in error.errors(include_url=False)]
        return None, [moved(d, (*places.get(str(loc[0]), loc[:1]), *loc[1:])) for d, loc in found]
    except PydanticCustomError as error:
        return None, [InitErrorDetails(type=error, loc=(), input=dict(entry.written))]
    if len(setting.variants) in (1, views):
        return setting, []
    key = next(key for key, value in written.items() if is_each(value))
    forms = ", ".join(f"{name}: ..." for name in groups)
    text = fault(
        f"{len(setting.variants)} values for {views} views of '{group}'",
        expected="one value a view",
        help="" if len(places[key]) > 1 else f"groups may differ: {{{forms}}}",
    )
    return None, [InitErrorDetails(type=text, loc=(*places[key], "each"), input=written[key])]
