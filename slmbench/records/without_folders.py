"""What records say in words. Results are passed on, so no folder of this machine is written into them."""

from __future__ import annotations

import re
import sys
import tempfile
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Annotated

from pydantic import PlainSerializer

from slmbench.errors import SlmbenchError
from slmbench.system.paths import cache_dir

#: What ends a path in a sentence, in quotes, or before a line's number.
_ENDS = r"\s'\"`:;,()<>\[\]|"
_TAIL = rf"(?:[\\/]+[^{_ENDS}\\/]+)*"
#: An absolute path; a part of an address, or of a path that is not absolute, is none.
_ABSOLUTE = rf"(?<![\w.:/\\~-])(?:[A-Za-z]:(?=[\\/])|(?=/)){_TAIL}"
#: What names no place of a person's.
_SYSTEM = {"dev", "proc", "sys"}
_INSTALLED = ("site-packages", "dist-packages")


def without_folders(text: str) -> str:
    """Return a text with ``.../NAME`` in the place of each path on this machine.

    A package's file keeps its path in the package. Names in a graph (``/layers.0/MatMul``) are no paths: there is no
    such folder.
    """
    if "/" not in text and "\\" not in text:
        return text
    return _pattern(_own_folders()).sub(_shown, text)


#: A sentence in a record: it is written without folders, and shown in full while the run is under way.
Message = Annotated[str, PlainSerializer(without_folders, return_type=str, when_used="json")]


def _own_folders() -> tuple[str, ...]:
    """Return folders that have to be found whatever is in their names, blanks for example."""
    found = {str(Path.home()), sys.prefix, tempfile.gettempdir()}
    # A cache that cannot be, and a folder that was removed under our feet, name nothing.
    with suppress(SlmbenchError):
        found.add(str(cache_dir()))
    with suppress(OSError):
        found.add(str(Path.cwd()))
    return tuple(sorted((one for one in found if len(Path(one).parts) > 1), key=len, reverse=True))


@lru_cache(maxsize=8)
def _pattern(own: tuple[str, ...]) -> re.Pattern[str]:
    # As Python's repr writes it, a backslash is two.
    known = "|".join(re.escape(one).replace(r"\\", r"\\+") for one in own)
    return re.compile(rf"(?<![\w.-])(?:{known})(?![\w-]){_TAIL}|{_ABSOLUTE}" if known else _ABSOLUTE)


def _shown(found: re.Match[str]) -> str:
    whole = found[0]
    root, *parts = [one for one in re.split(r"[\\/]+", whole) if one] or [""]
    if not parts and whole not in _own_folders():
        return whole
    if root in _SYSTEM or not Path(f"{root}/" if root.endswith(":") else f"/{root}").is_dir():
        return whole
    for name in _INSTALLED:
        if name in parts[:-1]:
            return "/".join(parts[parts.index(name) :])
    return "~" if whole == str(Path.home()) else f".../{parts[-1] if parts else root}"
