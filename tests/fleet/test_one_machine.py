"""One machine of a fleet, asked without a network: what it begins, what it forgets, what it may plan."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from pydantic import ValidationError

from slmbench.errors import BadInputError
from slmbench.fleet import machine_server as machine
from slmbench.fleet.messages import PartBegun, Planned
from slmbench.machine.fingerprint import collect
from slmbench.plan.request import RunRequest

REQUEST = RunRequest(models=("dec-tiny",))


@pytest.fixture
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> machine.Machine:
    monkeypatch.setenv("SLMBENCH_CACHE", str(tmp_path))
    return machine.Machine("alone", devices=(), fingerprint=collect())


def begun(answer: dict[str, str]) -> PartBegun:
    return PartBegun.model_validate_json(answer["json"])


def test_a_machine_that_has_less_than_the_client_begins_nothing(alone: machine.Machine, tmp_path: Path) -> None:
    assert begun(alone.begin("run-1", REQUEST.model_dump_json(), have=1)).absent
    assert not (tmp_path / "fleet").exists()


def test_a_machine_forgets_what_the_client_has_and_what_nobody_fetched(alone: machine.Machine, tmp_path: Path) -> None:
    own = tmp_path / "fleet" / "alone"
    for name in ("run-1", "run-2", "old-1"):
        (own / name / "run").mkdir(parents=True)
        (own / name / "run" / "samples.jsonl").write_text("{}\n", encoding="utf-8")
    assert begun(alone.forget("run-1")).absent
    assert {path.name for path in own.iterdir()} == {"run-2", "old-1"}
    long_ago = time.time() - machine.KEPT_S - 60
    for path in sorted(own.rglob("*"), reverse=True):
        if "old-1" in path.parts:
            os.utime(path, (long_ago, long_ago))
    machine.Machine("alone", devices=(), fingerprint=collect())
    assert [path.name for path in own.iterdir()] == ["run-2"]
    with pytest.raises(BadInputError, match="is not a valid name of a run"):
        alone.forget("../run-2")


@pytest.mark.parametrize("blocks", [((0,),), ((0, 1), (1,)), ((0, 2),)])
def test_blocks_that_lose_or_double_a_case_are_no_plan(blocks: tuple[tuple[int, ...], ...]) -> None:
    with pytest.raises(ValidationError, match="the blocks do not hold every key once"):
        Planned(keys=("a", "b"), blocks=blocks)
