"""``slmbench calibrate``: identical runs, measured or given, and what it says of gates."""

from __future__ import annotations

from pathlib import Path

import pytest
from rotation import takes_turns
from synthetic import MACHINE, Speed, make_run

from slmbench.analysis.metrics import matching_key
from slmbench.analysis.noise import read_floor
from slmbench.analysis.sides import read_side
from slmbench.analysis.verdicts import fingerprint_of
from slmbench.cli import run_main
from slmbench.errors import BadInputError, CannotRunError, ExitCode
from slmbench.machine.fingerprint import collect
from slmbench.plan.request import DEFAULT_SUITE, RunRequest, requested_suite
from slmbench.running import calibrate as module
from slmbench.running.calibrate import calibrate


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SLMBENCH_CACHE", str(tmp_path / "cache"))
    return tmp_path


def test_fewer_than_three_runs_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(BadInputError, match="3 or more"):
        calibrate(runs=2)
    assert run_main(["calibrate", "--runs", "1"]) == 2
    assert run_main(["calibrate", "--backend", "opnvino"]) == 2
    assert "Did you mean openvino" in capsys.readouterr().err


@takes_turns(2, 4)
@pytest.mark.slow
def test_a_baseline_is_judged_on_a_machine_that_was_calibrated_for_it(
    own_cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], shared_cache: Path
) -> None:
    """The whole road: run, check (not calibrated), calibrate --like, check again."""
    run, later, base = str(own_cache / "run"), str(own_cache / "later"), str(own_cache / "base.json")
    command = ["run", "--model", "dec-tiny", "--backend", "openvino", "--input-tokens", "16", "--output-tokens", "4"]
    monkeypatch.setenv("SLMBENCH_CACHE", str(shared_cache))
    (shared_cache / "noise").exists() and [file.unlink() for file in (shared_cache / "noise").glob("*.json")]
    assert run_main([*command, "--repeat", "4", "--out", run]) == 0
    assert run_main(["baseline", "save", run, base]) == 0
    capsys.readouterr()
    assert run_main(["check", "--baseline", base, run]) == 0, "a run does not differ from itself"
    assert "never calibrated" not in capsys.readouterr().out
    assert run_main([*command, "--repeat", "4", "--out", later]) == 0
    assert run_main(["check", "--baseline", base, later]) in (0, 1, 4)
    assert "never calibrated" in capsys.readouterr().out
    assert run_main(["calibrate", "--runs", "3", "--like", base]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "3 identical runs of 1 case" in told
    # Which of the two depends on how quiet the machine is.
    assert "a slowdown of that size can be seen" in told or "cannot be seen, not with" in told
    floor = read_floor(collect())
    assert floor.calibration is not None
    assert {"ttft", "tpot"} <= set(next(iter(floor.calibration.cases.values())))
    # On a machine busy with other work three runs may not tell.
    assert run_main(["check", "--baseline", base, later, "--gate", "900%"]) in (0, 4)
    assert "calibrat" not in capsys.readouterr().out


def test_runs_that_exist_make_a_calibration_of_their_machine(
    own_cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    both = [Speed(), Speed(model="b")]
    runs = [
        str(make_run([Speed(ttft_ms=100 + n), Speed(model="b")], seed=n).write(own_cache / f"{n}")) for n in range(4)
    ]
    side = read_side(runs[0])
    assert run_main(["calibrate", *runs]) == 0
    out = capsys.readouterr().out
    assert "4 identical runs of 2 cases" in out
    floor = read_floor(fingerprint_of(side))
    shift = floor.shift([matching_key(Speed().case)], "ttft")
    assert shift.runs == 4
    assert not shift.assumed
    c = str(make_run([Speed(model="c")], seed=9).write(own_cache / "c"))
    once = str(make_run([Speed(loads=1), Speed(model="b", loads=1)], seed=7).write(own_cache / "once"))
    unknown = str(make_run([Speed()], seed=8, machine={"hardware": "?"}).write(own_cache / "unknown"))
    software = {**MACHINE["software"], "engines": {"openvino": "2025.4.0"}}
    other_engine = str(make_run(both, seed=6, machine={**MACHINE, "software": software}).write(own_cache / "engine"))
    other_model = str(make_run(both, seed=5).with_other_weights().write(own_cache / "model"))
    for names, message, code in [
        (runs[:2], "2 runs were given; 3 or more different ones", 2),
        ([runs[0]] * 3, "3 or more different ones", 2),
        ([*runs[:2], c], f"{matching_key(Speed().case)} is in 0 and not in c", 3),
        ([*runs[:2], once], "with two loads or more in every run", 3),
        ([*runs[:2], unknown], "not recorded", 3),
        ([*runs[:2], other_engine], "0 and engine are not identical runs: openvino: 2026.4.1 / 2025.4.0", 3),
        ([*runs[:2], other_model], f"{matching_key(Speed().case)} is another model in model than in 0", 3),
    ]:
        assert run_main(["calibrate", *names]) == code
        assert message in capsys.readouterr().err


def test_what_is_left_out_and_what_is_replaced_is_said(own_cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    both, one = [Speed(), Speed(model="b")], [Speed()]
    runs = [str(make_run(both if n else one, seed=n).write(own_cache / f"{n}")) for n in range(4)]
    assert run_main(["calibrate", *runs]) == 0
    said = capsys.readouterr().err
    assert f"left out: {matching_key(Speed(model='b').case)} is in 1 and not in 0" in said
    assert "replaced" not in said
    earlier = read_floor(fingerprint_of(read_side(runs[0]))).calibration
    assert earlier is not None
    assert run_main(["calibrate", *runs[1:]]) == 0
    said = capsys.readouterr().err
    assert f"replaced the calibration of {earlier.measured} (4 runs of 1 case)" in said
    assert "left out" not in said


def test_a_case_that_fails_ends_the_calibration(monkeypatch: pytest.MonkeyPatch, own_cache: Path) -> None:
    def fail(request: object) -> None:
        raise CannotRunError("mu-tiny: the engine died")

    monkeypatch.setattr(module, "execute", fail)
    with pytest.raises(CannotRunError, match="the engine died"):
        calibrate(runs=3)
    assert read_floor(collect()).calibration is None


@pytest.mark.parametrize("backends", [(), ("onnxruntime",)])
def test_without_a_baseline_it_measures_what_run_measures(
    backends: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, own_cache: Path
) -> None:
    """A calibration holds for its cases alone: those of another suite would be of no use to what `run` measured."""
    asked: list[RunRequest] = []

    def measure(request: RunRequest) -> None:
        asked.append(request)
        raise CannotRunError("nothing is measured here")

    monkeypatch.setattr(module, "execute", measure)
    named = [word for name in backends for word in ("--backend", name)]
    assert run_main(["calibrate", *named]) == ExitCode.FAILED
    calibrated = asked.pop()
    monkeypatch.setattr("slmbench.running.runner.execute", lambda request, **_: measure(request))
    assert run_main(["run", *named]) == ExitCode.FAILED
    assert calibrated.model_copy(update={"out": None}) == asked.pop()
    assert requested_suite(calibrated).name == DEFAULT_SUITE
