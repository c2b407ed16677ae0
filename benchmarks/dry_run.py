"""How long a question costs: ``--help`` and every suite's ``--dry-run``, each in a process of its own.

    python benchmarks/dry_run.py [--turns 5]

Wanted: every suite's dry run within 1 s on a quiet machine. Beside each stands its ratio to an interpreter that imports
what any command line of ours needs (typer, pydantic), measured in turn with it, which a busy machine leaves as it is.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time

from slmbench.plan.suite import suite_names

BARE = ["-c", "import typer, pydantic"]


def seconds(arguments: list[str]) -> float:
    """Return how long an interpreter took with these arguments; the run must end well."""
    begin = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
    return time.perf_counter() - begin


def main() -> None:
    """Print a line for each question."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--turns", type=int, default=5)
    given = parser.parse_args()
    asked = {"--help": ["-m", "slmbench", "--help"]}
    for name in suite_names():
        asked[f"run --suite {name} --dry-run"] = ["-m", "slmbench", "run", "--suite", name, "--dry-run"]
    for label, arguments in asked.items():
        turns = [(seconds(arguments), seconds(BARE)) for _ in range(given.turns)]
        ratio = statistics.median(ours / bare for ours, bare in turns)
        median_s = statistics.median(ours for ours, _ in turns)
        print(f"{label:45} {median_s:.2f} s  {ratio:.1f} times the bare interpreter")


if __name__ == "__main__":
    main()
