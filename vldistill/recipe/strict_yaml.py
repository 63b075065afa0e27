"""YAML with line numbers, strictly: scalars as YAML 1.2's core schema has them (`1e-5` is a number, `no` and `on` are text,
`010` is no number), and neither aliases, nor tags, nor duplicate keys."""

from __future__ import annotations

import re
from typing import Any

import yaml

from vldistill.errors import InputError, Problems

MAX_DEPTH = 20

KeyPath = tuple[str | int, ...]
Lines = dict[KeyPath, str]  # key path -> "file:line"

_INTEGER = re.compile(r"[-+]?(0|[1-9][0-9]*)$")
_DECIMAL = re.compile(r"[-+]?((0|[1-9][0-9]*)(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]+)?$")
_CONSTANTS = {"true": True, "True": True, "false": False, "False": False, "null": None, "~": None, "": None}
_MAX_DIGITS = 300


def plain_scalar(text: str) -> Any:
    """The value of an unquoted scalar."""
    if text in _CONSTANTS:
        return _CONSTANTS[text]
    if len(text) > _MAX_DIGITS:
        return text
    if _INTEGER.match(text):
        return int(text)
    return float(text) if _DECIMAL.match(text) else text


def parse_yaml(text: str, source: str, problems: Problems) -> tuple[Any, Lines]:
    """The value of a YAML text and the line of every key. Duplicate keys go to `problems`; what cannot be read at all raises
    InputError."""
    lines: Lines = {(): f"{source}:1"}
    try:
        _refuse(text, source)
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise InputError(f"is not valid YAML: {error.problem or error.context}", where=f"{source}:{line}") from None
    except yaml.YAMLError as error:
        raise InputError(f"is not valid YAML: {str(error).splitlines()[0]}", where=source) from None
    return (_walk(node, (), source, lines, problems) if node is not None else {}), lines


def _refuse(text: str, source: str) -> None:
    """Raises InputError at the first alias, tag, or level too deep, before anything is built."""
    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        where = f"{source}:{event.start_mark.line + 1}"
        if isinstance(event, yaml.AliasEvent):
            raise InputError("aliases (*name) are not allowed", where=where, hint="write the value out")
        if getattr(event, "tag", None):
            raise InputError(f"tags ({event.tag}) are not allowed", where=where, hint="write a plain value")
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > MAX_DEPTH:
            raise InputError("is nested too deeply", where=where, hint="a recipe has a few levels")


def _walk(node: yaml.Node, path: KeyPath, source: str, lines: Lines, problems: Problems) -> Any:
    lines.setdefault(path, f"{source}:{node.start_mark.line + 1}")
    if isinstance(node, yaml.ScalarNode):
        return node.value if node.style is not None else plain_scalar(node.value)
    if isinstance(node, yaml.SequenceNode):
        return [_walk(item, (*path, index), source, lines, problems) for index, item in enumerate(node.value)]
    table: dict[str, Any] = {}
    for key_node, value_node in node.value:
        at = f"{source}:{key_node.start_mark.line + 1}"
        if not isinstance(key_node, yaml.ScalarNode):
            problems.add("a key must be a plain name", where=at)
            continue
        key = key_node.value
        if key in table:
            first = lines[(*path, key)].rsplit(":", 1)[-1]
            problems.add(
                f"key `{'.'.join(map(str, (*path, key)))}` appears twice, first in line {first}",
                where=at,
                hint="keep one of them",
            )
            continue
        lines[(*path, key)] = at
        table[key] = _walk(value_node, (*path, key), source, lines, problems)
    return table


class _Dumper(yaml.SafeDumper):
    """Quotes every text that would not read back as itself."""


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.Node:
    style = None if plain_scalar(value) == value else '"'
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)


_Dumper.add_representer(str, _text)


def dump_yaml(values: Any) -> str:
    """YAML that `parse_yaml` reads back as the same values."""
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)
