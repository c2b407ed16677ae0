from __future__ import annotations

import json

import pytest

from slmbench.cli import run_main
from slmbench.machine import devices, doctor, limits
from slmbench.machine.devices import DeviceRow, Devices
from slmbench.machine.finding import Finding
from slmbench.records.limits import BandwidthPoint, Limits, MatrixRate

NOISE = Finding(name="load", severity="noise", what="[red]2 cores[/red] busy", why="so", remedy="stop")
NOTE = Finding(name="turbo", severity="note", what="on", why="so", remedy="nothing")
LIMITS = Limits(
    engine="openvino",
    device="cpu",
    threads=2,
    versions={"openvino": "1"},
    machine="m",
    measured="now",
    bandwidth=(BandwidthPoint(footprint_bytes=512_000_000, bytes_per_s=27.1e9),),
    matrix={"fp32": MatrixRate(flops_per_s=361e9, effective="fp32")},
    refused={"fp16": "no [fp16] here"},
    foreign_load=0.5,
)


@pytest.mark.parametrize(
    ("findings", "arguments", "code"),
    [([], [], 0), ([NOISE], [], 0), ([NOISE], ["--strict"], 5), ([NOTE], ["--strict"], 0), ([], ["--strict"], 0)],
)
def test_findings_stop_nothing_unless_asked(
    findings: list[Finding], arguments: list[str], code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "examine", lambda observe: findings)
    assert run_main(["doctor", *arguments]) == code
    assert run_main(["doctor", "--json", *arguments]) == code


def test_the_doctor_prints_what_why_and_what_to_do(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(doctor, "examine", lambda observe: [NOISE])
    run_main(["doctor"])
    text = capsys.readouterr().out
    assert "noise  load: [red]2 cores[/red] busy" in text
    assert "why: so" in text
    assert "do:  stop" in text
    run_main(["doctor", "--json"])
    assert [Finding(**one) for one in json.loads(capsys.readouterr().out)] == [NOISE]


def test_limits_are_printed_with_units_and_refusals(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(limits, "limits_of", lambda *args, **kwargs: LIMITS)
    assert run_main(["limits"]) == 0
    text = capsys.readouterr().out
    for part in ("GB/s", "512 MB", "27.1", "361", "no [fp16] here", "other processes used 0.50 cores"):
        assert part in text
    run_main(["limits", "--backend", "openvino", "--json"])
    assert Limits.model_validate_json(capsys.readouterr().out) == LIMITS


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["limits", "--backend", "opnvino"], "Did you mean openvino"),
        (["limits", "--backend", "openvino", "--device", "gpus"], "Did you mean gpu"),
        (["limits", "--backend", "openvino", "--threads", "0"], "0 is not in the range"),
        (["devices", "--backend", "opnvino"], "Did you mean openvino"),
    ],
)
def test_bad_input(arguments: list[str], part: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_main(arguments) == 2
    assert part in capsys.readouterr().err


def test_devices_lists_the_present_and_for_the_absent_what_they_need(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = (
        DeviceRow(backend="e", device="cpu", engine_name="CPU", available=True, detail="[x]", memory_bytes=2**33),
        DeviceRow(backend="e", device="npu", engine_name="NPU", available=False, detail="nothing", remedy="a driver"),
    )
    found = Devices(rows=rows, broken={"bad": "boom"}, system=("gpu X",))
    monkeypatch.setattr(devices, "list_devices", lambda names: found)
    assert run_main(["devices"]) == 0
    text = capsys.readouterr().out
    for part in ("[x]", "8 GiB", "npu NPU (e): nothing", "needs: a driver", "bad could not be asked: boom", "gpu X"):
        assert part in text
    run_main(["devices", "--json"])
    assert Devices.model_validate_json(capsys.readouterr().out) == found
