"""Options that are lists or times: commas, repeats, ranges and units, the same on every command."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import typer

from slmbench.plan import typed_lists

T = TypeVar("T")


def _list(read: Callable[[list[str]], list[T]]) -> Callable[[Any], Any]:
    def take(given: list[str] | None) -> list[T] | None:
        try:
            return read(given) if given else None
        except ValueError as error:
            raise typer.BadParameter(str(error)) from error

    return take


def _seconds(text: str) -> float:
    try:
        return typed_lists.seconds(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


#: What goes into ``typer.Option`` of an option ``list[str] | None``: names, counts (it becomes ``list[int]``), or
#: KEY=VALUE; and of one that is seconds.
NAMES: Mapping[str, Any] = {"callback": _list(typed_lists.names)}
COUNTS: Mapping[str, Any] = {"callback": _list(typed_lists.counts), "metavar": "N,N-N*N"}
SETTINGS: Mapping[str, Any] = {"callback": _list(typed_lists.settings)}
SECONDS: Mapping[str, Any] = {"parser": _seconds, "metavar": "TIME"}
