"""What strangers send: pickles, paths, links, escapes. And nothing of ours, or of any library's, calls home."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from synthetic import Speed, make_run

from slmbench.cli import run_main
from slmbench.records import RUN_NAME

#: What must not reach a terminal, a Markdown table or a page as it is.
HOSTILE = "\x1b]0;owned\x07<script>alert(1)</script>|[x](javascript:alert(1))"


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    """A run whose names are hostile."""
    speeds = [Speed(model=f"{HOSTILE} {n}", options=(("o", HOSTILE),)) for n in range(2)]
    return make_run(speeds, run_id=HOSTILE).write(tmp_path / "run")


@pytest.mark.parametrize("way", [["--markdown"], [], ["--write"]])
def test_names_steer_nothing(hostile: Path, way: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run_main(["table", str(hostile), *way]) == 0
    told = capsys.readouterr()
    assert "\x1b" not in told.out + told.err
    assert "\x07" not in told.out + told.err
    if way == ["--markdown"]:
        assert "<script>" not in told.out
        assert "](javascript:" not in told.out
    if way == ["--write"]:
        for name in ("table.md", "report.html"):
            written = (hostile / name).read_text(encoding="utf-8")
            assert "<script>alert" not in written, name
            assert "\x1b" not in written, name


def test_a_link_in_results_is_replaced_not_followed(tmp_path: Path) -> None:
    folder = make_run().write(tmp_path / "run")
    precious = tmp_path / "precious"
    precious.write_text("mine")
    for name in ("table.md", "table.csv", "report.html"):
        (folder / name).symlink_to(precious)
    assert run_main(["table", str(folder), "--write"]) == 0
    assert precious.read_text() == "mine"
    assert not (folder / "table.md").is_symlink()


def _without_network() -> list[str] | None:
    """Return the command that takes the network away, where this system lets us."""
    unshare = shutil.which("unshare")
    if unshare is None or subprocess.run([unshare, "-rn", "true"], capture_output=True, check=False).returncode:
        return None
    return [unshare, "-rn"]


#: Blocks every socket but those of the system itself, where there is no network namespace.
SITE = """
import socket
def refused(self, address):
    if self.family in (socket.AF_INET, socket.AF_INET6):
        raise OSError("a test without network")
    return connect(self, address)
connect = socket.socket.connect
socket.socket.connect = refused
"""


@pytest.mark.slow
def test_a_whole_run_needs_no_network(tmp_path: Path, shared_cache: Path) -> None:
    pytest.importorskip("onnxruntime", reason="needs slmbench[cpu]")
    pytest.importorskip("torch", reason="exporting needs slmbench[cpu]")
    environment = {k: v for k, v in os.environ.items() if k != "HF_HUB_OFFLINE"}
    prefix = _without_network()
    if prefix is None:
        (tmp_path / "sitecustomize.py").write_text(SITE)
        environment["PYTHONPATH"] = str(tmp_path)
    options = ["--pair", "mu-tiny,dec-tiny", "--repeat", "2", "--input-tokens", "16", "--output-tokens", "4"]
    options += ["--backend", "onnxruntime", "--backend", "openvino", "--out", str(tmp_path / "run")]
    done = subprocess.run(
        [*(prefix or []), sys.executable, "-P", "-m", "slmbench", "run", *options],
        env=environment, capture_output=True, text=True, timeout=400, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / RUN_NAME).is_file()
    assert (tmp_path / "run" / "report.html").is_file()
    for log in (tmp_path / "run" / "logs").iterdir():
        assert "getaddrinfo" not in log.read_text(errors="replace"), log
