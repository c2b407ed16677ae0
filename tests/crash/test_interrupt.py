"""Ctrl-C, and a time limit's SIGTERM: what is kept is said, and the command that goes on is printed and does."""

from __future__ import annotations

import os
import re
import shlex
import signal
import time
from pathlib import Path

import pytest
from killing import TIMEOUT_S, Bench

pytest.importorskip("onnxruntime", reason="needs slmbench[cpu]")
pytest.importorskip("torch", reason="exporting needs slmbench[cpu]")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(os.name == "nt", reason="POSIX signals")]

OPTIONS = ("--model", "dec-tiny", "--backend", "onnxruntime", "--input-tokens", "8", "--output-tokens", "3")


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "time limit"])
def test_an_end_from_outside_prints_the_command_that_goes_on(
    how: signal.Signals, tmp_path: Path, shared_cache: Path
) -> None:
    bench, folder = Bench(tmp_path), tmp_path / "a run"
    (tmp_path / "cache").symlink_to(shared_cache, target_is_directory=True)
    process = bench.start("run", *OPTIONS, "--repeat", "40", "--out", str(folder))
    samples, deadline = folder / "samples.jsonl", time.monotonic() + TIMEOUT_S
    while not (samples.exists() and b'"sample"' in samples.read_bytes()):
        assert process.poll() is None, bench.output()
        assert time.monotonic() < deadline, bench.output()
        time.sleep(0.02)
    process.send_signal(how)
    assert process.wait(TIMEOUT_S) == 130
    last = bench.output().strip().splitlines()[-1]
    said = r"slmbench: error: interrupted; (\d+) samples? of 1 case kept in .*; so far: (.*); to continue: (.*)"
    found = re.fullmatch(said, last)
    assert found, last
    assert int(found[1]) == samples.read_bytes().count(b'"type":"sample"') > 0
    assert bench.call(*shlex.split(found[2])[1:]) == 0, bench.output()
    program, *arguments = shlex.split(found[3])
    assert program == "slmbench"
    assert bench.call(*arguments) == 0, bench.output()
    assert samples.read_bytes().count(b'"type":"sample"') >= 40


def test_ctrl_c_before_the_first_sample_says_so(tmp_path: Path) -> None:
    bench, folder = Bench(tmp_path), tmp_path / "run"
    process = bench.start("run", *OPTIONS, "--out", str(folder))
    deadline = time.monotonic() + TIMEOUT_S
    while "exporting" not in bench.output():
        assert process.poll() is None, bench.output()
        assert time.monotonic() < deadline, bench.output()
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    assert process.wait(TIMEOUT_S) == 130
    last = bench.output().strip().splitlines()[-1]
    kept = "exported artifacts are kept; give the same command to continue"
    assert last == (f"slmbench: error: interrupted before the first sample; {kept}")
    assert not (folder / "run.json").exists()
