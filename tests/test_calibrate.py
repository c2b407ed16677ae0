from __future__ import annotations

from pathlib import Path

import pytest

from slmbench.cli import run_main
from slmbench.errors import BadInputError, CannotRunError
from slmbench.machine.fingerprint import collect
from slmbench.machine.noise import noise_floors
from slmbench.running import calibrate as module
from slmbench.running.calibrate import calibrate


def test_fewer_than_three_runs_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(BadInputError, match="3 or more"):
        calibrate(runs=2)
    assert run_main(["calibrate", "--runs", "1"]) == 2
    assert run_main(["calibrate", "--backend", "opnvino"]) == 2
    assert "Did you mean openvino" in capsys.readouterr().err


@pytest.mark.slow
def test_identical_runs_make_the_floor_of_this_machine() -> None:
    said: list[str] = []
    floor = calibrate(runs=3, samples=4, backends=["openvino"], say=said.append)
    assert len(said) == 3
    assert len(floor.cases) == 2
    assert all("openvino" in case for case in floor.cases)
    assert 0 <= floor.disturbed <= 1
    assert floor.metrics["ttft"] > 0
    assert floor.metrics["tpot"] > 0
    assert noise_floors(collect()) == floor.metrics


def test_a_case_that_fails_ends_the_calibration(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    kept = noise_floors(collect())

    def fail(request: object) -> None:
        raise CannotRunError("mu-tiny: the engine died")

    monkeypatch.setattr(module, "execute", fail)
    with pytest.raises(CannotRunError, match="the engine died"):
        calibrate(runs=3)
    assert noise_floors(collect()) == kept
