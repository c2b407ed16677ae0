"""Rows as CSV and JSON: data for programs and spreadsheets, whatever a stranger called his model."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from slmbench.errors import one_line

#: What a spreadsheet takes for the beginning of a formula. No name of ours begins so; numbers are not text here.
_FORMULA = ("=", "+", "-", "@")


def csv_text(rows: Sequence[Mapping[str, object]]) -> str:
    """Return a table as CSV; what is unknown or not in a row is empty, and so is a table without rows.

    Text is one line without control characters; where a spreadsheet would calculate with it, an apostrophe is before
    it, as https://owasp.org/www-community/attacks/CSV_Injection advises.
    """
    if not rows:
        return ""
    columns = dict.fromkeys(name for row in rows for name in row)
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([_cell(row.get(name)) for name in columns] for row in map(known, rows))
    return out.getvalue()


def json_rows(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return rows as JSON; what is unknown is null."""
    return json.dumps([known(row) for row in rows], indent=1, ensure_ascii=False, allow_nan=False)


def known(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row with None for each figure that is not known: NaN, or a bound beyond every number."""
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}


def _cell(value: object) -> object:
    if value is None:
        return ""
    if not isinstance(value, str):
        return value
    text = one_line(value)
    return f"'{text}" if text.startswith(_FORMULA) else text
