"""Makes docs/reliability.md from what the tests of tests/crash, fuzz, strangers, load and upgrades reported.

    SLMBENCH_ALL=1 pytest tests/crash tests/fuzz tests/strangers tests/load tests/test_upgrades.py \
        tests/backends/test_fallbacks.py --junitxml=report.xml
    python docs/reliability_table.py report.xml

A report of some of them renews their files' rows and leaves the others.
"""

from __future__ import annotations

import sys
import xml.etree.ElementTree as ET
from collections import Counter, defaultdict
from pathlib import Path

#: What each file attacks, in the order of the table.
AREAS = {
    "tests/crash/test_kills.py": "a run is killed at random moments",
    "tests/crash/test_kills_elsewhere.py": "commands that write, but measure no run, are killed",
    "tests/crash/test_adversity.py": "disks, folders, clocks, suspended machines",
    "tests/crash/test_outputs.py": "devices, links, permissions, any bytes in a path, odd shells",
    "tests/crash/test_two_at_once.py": "two commands at once",
    "tests/fuzz/test_broken_inputs.py": "broken inputs",
    "tests/fuzz/test_fleet_messages.py": "answers of a fleet's machines",
    "tests/fuzz/test_kept_files.py": "kept files and environments",
    "tests/strangers/test_names.py": "names that steer terminals, browsers, readers",
    "tests/strangers/test_strangers.py": "input from strangers, no network",
    "tests/strangers/test_engine_files.py": "engines' files cut and flipped, manifest fitting or not",
    "tests/strangers/test_paths_of_engines.py": "what an artifact's files say of other files",
    "tests/backends/test_fallbacks.py": "silent fallbacks (more in docs/backends.md)",
    "tests/load/test_large_runs.py": "load",
    "tests/test_upgrades.py": "files of other versions",
}
HEAD = """\
# Reliability: what was tried, and what happened

Made by `docs/reliability_table.py` from the report of the tests themselves; not written by hand. A row is a test; "of"
counts its inputs, moments or versions. Each broken input ends in one line that names the file or place, with the exit
code of bad input, within seconds and 300 MB, and writes nothing;
a mutation that may leave its file good may pass, but not with a traceback.
Skipped: this machine lacked what the test needs.

| attack | test | held | of | skipped | seconds |
| --- | --- | ---: | ---: | ---: | ---: |
"""


def rows(reports: list[Path], before: str = "") -> list[str]:
    """Return the table's rows, one a test function, from reports in JUnit's format.

    Of a file of tests that no report speaks of, the rows that the page had ``before`` stay.
    """
    counts: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    seconds: Counter[tuple[str, str]] = Counter()
    for report in reports:
        # Our own report, written a moment ago: no stranger's XML.
        for case in ET.parse(report).iter("testcase"):
            file = case.get("classname", "").replace(".", "/") + ".py"
            key = file, case.get("name", "").partition("[")[0]
            states = {child.tag for child in case}
            bad = bool(states & {"failure", "error"})
            counts[key]["failed" if bad else "skipped" if "skipped" in states else "held"] += 1
            seconds[key] += float(case.get("time", "0"))
    found = []
    told = {file for file, _ in counts}
    for file, area in AREAS.items():
        if file not in told:
            found += [line for line in before.splitlines() if line.startswith("|") and f"`{Path(file).name}::" in line]
        for (where, name), count in counts.items():
            if where == file:
                cells = area, f"`{Path(file).name}::{name}`", count["held"], count.total(), count["skipped"]
                found.append(f"| {' | '.join(map(str, cells))} | {seconds[where, name]:.1f} |")
    return found


def main() -> None:
    """Write the page."""
    page = Path(__file__).with_name("reliability.md")
    table = rows([Path(name) for name in sys.argv[1:]], page.read_text(encoding="utf-8") if page.exists() else "")
    page.write_text(HEAD + "\n".join(table) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
