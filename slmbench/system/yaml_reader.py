"""Reading YAML that strangers may have written."""

from __future__ import annotations

import yaml

from slmbench.errors import BadInputError

MAX_FILE_BYTES = 1_000_000
MAX_DEPTH = 20


def compose_yaml(text: str, where: str) -> yaml.Node | None:
    """Compose a YAML tree, refusing what our files never need and a stranger's may carry: aliases, deep nesting.

    Raises:
        BadInputError: either of them; with the line.
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
    return root


def mark_line(event: yaml.Event | yaml.Node) -> int:
    """Return the line, from 1, on which an event or a node starts."""
    return event.start_mark.line + 1 if event.start_mark else 1
