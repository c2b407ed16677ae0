"""Memory that is given back: pages of mapped files that nobody wrote to, and nothing else."""

from __future__ import annotations

import mmap
import re
import sys
from pathlib import Path

import pytest
from slmbench.backends.common.given_back import give_back

PAGES = 64 * mmap.PAGESIZE


def resident(path: Path) -> int:
    """Return the bytes of a mapped file that are in this process's memory."""
    found = re.findall(
        rf"{re.escape(str(path))}\n(?:\w+:.*\n)*?Rss: +(\d+) kB", Path("/proc/self/smaps").read_text(encoding="utf-8")
    )
    assert found, path
    return sum(map(int, found)) * 1024


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere nothing is given back")
def test_pages_of_files_that_were_only_read_are_given_back(tmp_path: Path) -> None:
    paths = [tmp_path / "artifact" / "model.bin", tmp_path / "artifact" / "written.bin", tmp_path / "other" / "x.bin"]
    for path in paths:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"weights!" * (PAGES // 8))
    with paths[0].open("rb") as one, paths[1].open("rb") as two, paths[2].open("rb") as three:
        read = mmap.mmap(one.fileno(), 0, access=mmap.ACCESS_READ)
        written = mmap.mmap(two.fileno(), 0, access=mmap.ACCESS_COPY)
        elsewhere = mmap.mmap(three.fileno(), 0, access=mmap.ACCESS_READ)
        for mapping in (read, written, elsewhere):
            assert mapping[:].count(b"weights!") == PAGES // 8
        written[:8] = b"changed."
        assert [resident(path) for path in paths] == [PAGES] * 3
        give_back(tmp_path / "artifact")
        assert resident(paths[0]) == 0
        assert resident(paths[2]) == PAGES
        assert written[:16] == b"changed.weights!"
        assert read[:].count(b"weights!") == PAGES // 8, "they are read from the file again"
