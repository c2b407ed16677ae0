"""How long the README's first command takes from nothing, and how much disk.

    python benchmarks/first_command.py COMMIT...

Each commit is cloned into a folder of its own, and its README's command is run there with an empty cache of artifacts.
pip's cache is used as it is: take the second of two runs, or the download is measured too.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]


def measure(commit: str) -> str:
    """Return one line: seconds of each part of the command, and MB of the environment and of the artifacts."""
    with tempfile.TemporaryDirectory() as scratch:
        clone, cache = Path(scratch) / "clone", Path(scratch) / "cache"
        subprocess.run(["git", "clone", "-q", str(ROOT), str(clone)], check=True)
        subprocess.run(["git", "checkout", "-q", commit], cwd=clone, check=True)
        readme = (clone / "README.md").read_text(encoding="utf-8")
        (command,) = re.findall(r"<!-- main-job -->\n```bash\n(.*?)\n```", readme, re.DOTALL)
        seconds = []
        for part in command.split(" && "):
            began = time.perf_counter()
            environment = {**os.environ, "SLMBENCH_CACHE": str(cache)}
            subprocess.run(["bash", "-c", part], cwd=clone, check=True, env=environment, stdout=subprocess.DEVNULL)
            seconds.append(time.perf_counter() - began)
        parts = " + ".join(f"{one:.0f}" for one in seconds)
        return f"{commit}: {sum(seconds):.0f} s ({parts}), {megabytes(clone / '.venv')} MB + {megabytes(cache)} MB"


def megabytes(folder: Path) -> int:
    """Return the size of a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) // 1_000_000


if __name__ == "__main__":
    for one in sys.argv[1:]:
        print(measure(one), flush=True)
