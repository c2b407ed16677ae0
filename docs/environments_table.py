"""Says what passed in an environment of .ci/environments, and notes it in docs/environments.md.

    python docs/environments_table.py [--write] NAME SECONDS

Run by the interpreter of that environment: the versions are the ones it has.
"""

from __future__ import annotations

import re
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PAGE = Path(__file__).with_name("environments.md")
SHOWN = ("torch", "transformers", "optimum-intel", "openvino", "onnxruntime", "numpy", "pydantic", "pandas")


def versions() -> str:
    """Return what is installed of the distributions that matter most."""
    found = []
    for name in SHOWN:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            found.append(f"no {name}")
    return ", ".join(found)


def main() -> None:
    """Print the row, and write it where that is asked for."""
    write, (name, seconds) = "--write" in sys.argv, [word for word in sys.argv[1:] if word != "--write"]
    told = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=PAGE.parent)
    row = f"| `{name}` | {datetime.now(UTC):%Y-%m-%d} | {told.stdout.strip() or '-'} | {seconds} | {versions()} |"
    print(f"passed: {row}")
    if write:
        text = PAGE.read_text(encoding="utf-8")
        changed, count = re.subn(rf"^\| `{name}` \|.*$", lambda _: row, text, flags=re.MULTILINE)
        if not count:
            sys.exit(f"{PAGE}: no row of {name}")
        PAGE.write_text(changed, encoding="utf-8")


if __name__ == "__main__":
    main()
