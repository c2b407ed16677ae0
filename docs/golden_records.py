"""Writes ``slmbench/models/golden_records.json``: what torch makes of the golden prompts, for catalog entries.

``python docs/golden_records.py [NAME...]`` makes these again, or all that are there.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from slmbench.export.golden_record import make_golden
from slmbench.export.torch_model import load_model
from slmbench.models.checkpoint import resolve
from slmbench.models.shipped_golden import FILE

PLACE = Path(__file__).parents[1] / "slmbench" / "models" / FILE


def made(name: str) -> dict[str, Any]:
    """Return what the file holds of one entry."""
    checkpoint = resolve(name)
    record = make_golden(load_model(checkpoint), checkpoint).model_dump(mode="json")
    for prompt in record["prompts"]:
        prompt["margins"] = [round(margin, 6) for margin in prompt["margins"]]
    return {"digest": checkpoint.digest, "record": record}


def main() -> int:
    """Write the file; other entries stay as they are."""
    found = json.loads(PLACE.read_text(encoding="utf-8")) if PLACE.is_file() else {}
    for name in sys.argv[1:] or list(found):
        found[name] = made(name)
        lines = [f"{json.dumps(key)}: {json.dumps(value, separators=(',', ':'))}" for key, value in found.items()]
        PLACE.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
