"""Text of a run on a page: harmless, and with commands set as code."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from markupsafe import Markup

_CODE = re.compile(r"`([^`]+)`")


def without_control(value: object) -> object:
    """Return text from a run without characters that steer a terminal: pages are also shown with ``cat``."""
    if type(value) is not str:
        return value
    return "".join(c if c.isprintable() or c in "\n\t" else " " for c in value)


def with_code(text: str) -> Markup:
    """Return a sentence as HTML; what stands between backticks in it is set as code."""
    from markupsafe import Markup, escape

    return Markup(_CODE.sub(r"<code>\1</code>", str(escape(without_control(text)))))
