"""Tables as CSV: data for programs and spreadsheets, whatever a stranger called his model."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence

from slmbench.errors import one_line

#: What a spreadsheet takes for the beginning of a formula. No name of ours begins so; numbers are not text here.
_FORMULA = ("=", "+", "-", "@")


def csv_text(rows: Sequence[Mapping[str, object]]) -> str:
    """Return a table as CSV; what is unknown (None, NaN) or not in a row is empty, and so is a table without rows.

    Text is one line without control characters; where a spreadsheet would calculate with it, an apostrophe is before
    it, as https://owasp.org/www-community/attacks/CSV_Injection advises.
    """
    if not rows:
        return ""
    columns = dict.fromkeys(name for row in rows for name in row)
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([_cell(row.get(name)) for name in columns] for row in rows)
    return out.getvalue()


def _cell(value: object) -> object:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if not isinstance(value, str):
        return value
    text = one_line(value)
    return f"'{text}" if text.startswith(_FORMULA) else text
