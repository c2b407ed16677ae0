"""What a run prints, from the typed command: lines where there is no terminal, one live table on one, and quietly."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

MODELS = ("--model", "mu-tiny,dec-tiny", "--backend", "openvino", "--input-tokens", "8", "--output-tokens", "4")


def environment(width: int) -> dict[str, str]:
    return {**os.environ, "COLUMNS": str(width), "TERM": "xterm"}


def slmbench(folder: Path, *arguments: str, width: int = 120) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "slmbench", *arguments]
    return subprocess.run(command, cwd=folder, env=environment(width), capture_output=True, text=True)


def on_a_terminal(folder: Path, *arguments: str, width: int) -> str:
    """Return what a terminal of that width gets."""
    import fcntl
    import pty
    import struct
    import termios

    host, guest = pty.openpty()
    fcntl.ioctl(guest, termios.TIOCSWINSZ, struct.pack("HHHH", 40, width, 0, 0))
    command = [sys.executable, "-m", "slmbench", *arguments]
    with subprocess.Popen(command, cwd=folder, env=environment(width), stdout=guest, stderr=guest) as process:
        os.close(guest)
        text = b""
        while True:
            try:
                read = os.read(host, 65536)
            except OSError:
                break
            if not read:
                break
            text += read
    os.close(host)
    assert process.returncode == 0, text.decode()
    return text.decode()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="a pseudo terminal")
def test_a_run_as_it_is_read(tmp_path: Path) -> None:
    pytest.importorskip("openvino", reason="needs slmbench[cpu]")
    piped = slmbench(tmp_path, "run", *MODELS, "--repeat", "3", "--out", "piped")
    assert piped.returncode == 0, piped.stderr
    said = piped.stderr.splitlines()
    for case in ("mu-tiny openvino 8/4: ttft ", "dec-tiny openvino 8/4: ttft "):
        assert len([line for line in said if line.startswith(case)]) == 1, said
    assert len(set(said)) == len(said), "a line is printed twice"
    assert "proven" not in piped.stderr
    assert "First token soonest at 8 in / 4 out: " in piped.stdout
    # What was measured is there: only what is printed is asked for again.
    quiet = slmbench(tmp_path, "run", "--resume", "piped", "--quiet")
    assert (quiet.returncode, quiet.stderr) == (0, "")
    assert quiet.stdout == piped.stdout
    text = on_a_terminal(tmp_path, "run", *MODELS, "--repeat", "1", "--out", "narrow", width=80)
    assert "\x1b[?25l" in text, "no live table"
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)
    assert all(len(line) <= 80 for line in re.split(r"[\r\n]+", plain))
    plain = " ".join(plain.split())
    assert "Flags: " in plain
    assert "agreement: 1.0" in plain
    assert "Left out at 80 characters: " in plain
    assert slmbench(tmp_path, "run", *MODELS, "-v", "-q").returncode == 2
