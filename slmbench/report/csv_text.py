"""Tables as CSV: data for programs and spreadsheets, whatever a stranger called his model."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable

from slmbench.errors import one_line

#: What a spreadsheet takes for the beginning of a formula. No name of ours begins so; numbers are not text here.
_FORMULA = ("=", "+", "-", "@")


def csv_text(columns: Iterable[object], rows: Iterable[Iterable[object]]) -> str:
    """Return a table as CSV; what is unknown (None, NaN) is empty.

    Text is one line without control characters; where a spreadsheet would calculate with it, an apostrophe is before
    it, as https://owasp.org/www-community/attacks/CSV_Injection advises.
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(map(_cell, row) for row in rows)
    return out.getvalue()


def _cell(value: object) -> object:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if not isinstance(value, str):
        return value
    text = one_line(value)
    return f"'{text}" if text.startswith(_FORMULA) else text
