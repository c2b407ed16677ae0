"""Reading YAML that strangers may have written."""

from __future__ import annotations

import re

import yaml

from slmbench.errors import BadInputError, one_line

MAX_FILE_BYTES = 1_000_000
MAX_DEPTH = 20
_NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
_ODD_NUMBER = re.compile(r"[-+]?(?:(?P<octal>0[0-7_]+)|[0-9_]+(?::[0-5]?[0-9])+(?:\.[0-9_]*)?)")


def compose_yaml(text: str, where: str) -> yaml.Node | None:
    """Compose a YAML tree, refusing aliases, deep nesting, and what YAML reads otherwise than a person.

    Raises:
        BadInputError: it holds one of them; with the line.
        yaml.YAMLError: not YAML.
    """
    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        if isinstance(event, yaml.AliasEvent):
            raise BadInputError(f"{where}:{mark_line(event)}: YAML aliases (*name) are not taken")
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > MAX_DEPTH:
                raise BadInputError(f"{where}:{mark_line(event)}: nested deeper than {MAX_DEPTH} levels")
        if isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
    root: yaml.Node | None = yaml.compose(text, Loader=yaml.SafeLoader)
    if root is not None:
        _refuse_surprises(root, where)
    return root


def _refuse_surprises(node: yaml.Node, where: str) -> None:
    """Refuse what YAML 1.1 reads otherwise than a person: a key's first value, 0100 as 64, 1:30 as 90."""
    if isinstance(node, yaml.MappingNode):
        seen: dict[str, int] = {}
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    said = f"'{one_line(key.value)[:100]}' is there twice, first in line {seen[key.value]}"
                    raise BadInputError(f"{where}:{mark_line(key)}: {said}")
                seen[key.value] = mark_line(key)
            _refuse_surprises(key, where)
            _refuse_surprises(value, where)
    elif isinstance(node, yaml.SequenceNode):
        for item in node.value:
            _refuse_surprises(item, where)
    elif isinstance(node, yaml.ScalarNode) and node.tag in _NUMBERS and (odd := _ODD_NUMBER.fullmatch(node.value)):
        base = "an octal number" if odd["octal"] else "a number in base 60"
        plain = (node.value.lstrip("+-0_") or "0") if odd["octal"] else f'"{node.value}"'
        raise BadInputError(f"{where}:{mark_line(node)}: {node.value} is {base} in YAML; write {plain}")


def mark_line(event: yaml.Event | yaml.Node) -> int:
    """Return the line, from 1, on which an event or a node starts."""
    return event.start_mark.line + 1 if event.start_mark else 1
