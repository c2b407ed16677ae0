"""Write the published JSON Schemas of a run's files; run this after a change of slmbench.records."""

from __future__ import annotations

import json
from pathlib import Path

from slmbench.records.quality import all_schemas

for name, schema in all_schemas().items():
    text = json.dumps(schema, indent=1, sort_keys=True) + "\n"
    Path(__file__).with_name(name).write_text(text, encoding="utf-8", newline="\n")
