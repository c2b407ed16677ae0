"""Charts as pictures: PNG and SVG files of Vega-Lite specifications, drawn without a browser."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from slmbench.errors import BadInputError, one_line
from slmbench.system.files import write_output, write_whole

KINDS = (".png", ".svg")


def write_picture(
    path: Path, spec: Mapping[str, Any], write: Callable[[Path, str | bytes], None] = write_output
) -> None:
    """Draw a chart on white, 900 units wide, into a ``.png`` or ``.svg`` file.

    Raises:
        BadInputError: the file cannot be written.
    """
    import vl_convert

    fixed = _plain({**spec, "width": 900, "background": "white"})
    fixed["config"] = {**fixed["config"], "background": "white"}
    drawn = vl_convert.vegalite_to_svg(fixed) if path.suffix == ".svg" else vl_convert.vegalite_to_png(fixed, scale=2)
    write(path, drawn)


def _plain(value: Any) -> Any:
    """Return the specification without control characters: a name with one ends the drawing library's process."""
    if isinstance(value, str):
        return one_line(value)
    if isinstance(value, Mapping):
        return {_plain(key): _plain(inner) for key, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, list | tuple) else value


def write_pictures(folder: Path, titled: Mapping[str, Mapping[str, Any]]) -> list[Path]:
    """Draw charts into a folder, a PNG each, named after their titles; return the files.

    Raises:
        BadInputError: the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInputError(f"{folder}: cannot be written: {error.strerror}") from error
    written = []
    for title, spec in titled.items():
        written.append(folder / f"{re.sub(r'[^a-z0-9]+', '-', title.lower()).strip('-')}.png")
        # In a folder that may have come from a stranger: a link of our name is replaced.
        write_picture(written[-1], spec, write_whole)
    return written
