"""On an emulated processor (qemu, Rosetta) tokens and placement are proven, and no time is taken or shown."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from slmbench.cli import run_main
from slmbench.machine import cpu
from slmbench.machine.fingerprint import Fingerprint, collect
from slmbench.running import load, runner

CASE = ["--model", "mu-tiny", "--input-tokens", "16", "--output-tokens", "4"]


def test_tokens_are_proven_and_nothing_is_timed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("onnxruntime", reason="needs slmbench[cpu]")
    for module in (load, runner):
        monkeypatch.setattr(module, "emulator", lambda: "qemu-aarch64")
    out = str(tmp_path / "run")
    assert run_main(["run", *CASE, "--backend", "onnxruntime", "--out", out, "--json"]) == 0
    captured = capsys.readouterr()
    assert "qemu-aarch64 emulates this processor: tokens and placement are proven, no times are taken" in captured.err
    (row,) = json.loads(captured.out)
    assert (row["agreement"], row["executed_on"], row["failure"]) == (1.0, "emulated-cpu", None)
    assert row["flags"] == "emulated processor: no times"
    assert all(row[name] is None for name in ("ttft_s", "tpot_s", "load_s", "decode_tps"))
    lines = (tmp_path / "run" / "samples.jsonl").read_text(encoding="utf-8").splitlines()
    assert {json.loads(line)["type"] for line in lines} == {"load", "memory"}
    assert run_main(["table", out]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    compared = json.loads(lines[0])["agreement_tokens"]
    assert compared > 1
    assert f"emulated processor: no times; all {compared} tokens agree, on emulated-cpu" in shown
    assert run_main(["compare", out, out]) == 3
    assert "only simulated cases" in capsys.readouterr().err


def test_the_fingerprint_says_so_and_that_of_a_real_machine_keeps_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    real = collect()
    assert real.hardware.emulator is None
    known = real.model_dump(mode="json")
    del known["hardware"]["emulator"]
    assert Fingerprint.model_validate(known).digest() == real.digest()
    monkeypatch.setattr(cpu, "emulator", lambda: "qemu-aarch64")
    assert collect().hardware.emulator == "qemu-aarch64"
    assert collect().digest() != real.digest()
