"""What a terminal's encoding lacks is printed in plain characters: Windows code pages, ASCII."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from slmbench.system import streams

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("encoding", ["cp1252", "cp437", "ascii"])
def test_a_comparison_prints_in_any_encoding(encoding: str) -> None:
    runs = [str(ROOT / "results" / "reference" / name) for name in ("quick", "quick")]
    environment = os.environ | {"PYTHONIOENCODING": encoding, "COLUMNS": "120", "PYTHONUTF8": "0"}
    command = [sys.executable, "-m", "slmbench", "compare", *runs]
    done = subprocess.run(command, env=environment, capture_output=True, timeout=120)
    assert done.returncode == 0, done.stderr
    text = done.stdout.decode(encoding)
    assert "= unchanged" in text
    assert "\\u" not in text
    assert "\\x" not in text


def test_each_of_our_signs_has_a_plain_one() -> None:
    """Every character beyond ASCII that a text of ours prints has its stand-in; a name of the user's is escaped."""
    written = "".join(streams._PLAIN)
    assert all(streams._PLAIN[sign].isascii() for sign in written)
    streams.print_in_any_encoding()
    assert "12 ms ± 3 % → ▲".encode("ascii", errors="slmbench.plain") == b"12 ms +/- 3 % -> ^"
    assert "модель".encode("cp437", errors="slmbench.plain").startswith(b"\\u043c")
