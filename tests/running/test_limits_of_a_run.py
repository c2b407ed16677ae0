"""Which engines' limits a run measures."""

from __future__ import annotations

from typing import Any

import pytest

from slmbench.models.checkpoint import resolve
from slmbench.plan.planner import PlanOptions, make_plan
from slmbench.plan.suite import Suite
from slmbench.records.schema import Outcome
from slmbench.running import limits as of_a_run

pytest.importorskip("openvino", reason="needs slmbench[cpu]")
pytest.importorskip("onnxruntime", reason="needs slmbench[cpu]")


class _Measured:
    disturbed = False

    def model_dump(self, **_: Any) -> dict[str, Any]:
        return {"new": True}


def test_engines_without_figures_and_those_that_are_known_are_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    suite = Suite.model_validate(
        {
            "name": "s",
            "checkpoints": ["mu-tiny"],
            "backends": ["openvino", "onnxruntime", "torch"],
            "workloads": [{"input_tokens": 8, "output_tokens": 4}],
        }
    )
    plan = make_plan(suite, {"mu-tiny": resolve("mu-tiny")}, PlanOptions())
    # What `--budget` left out has no loads.
    loads = {"openvino": 3, "onnxruntime": 3, "torch": 0}
    outcomes = {cell.case.key: Outcome(loads=loads[cell.case.backend]) for cell in plan.cells}
    asked: list[str] = []
    monkeypatch.setattr(of_a_run, "cached_limits", lambda *_: None)
    monkeypatch.setattr(of_a_run, "limits_of", lambda backend, *_: asked.append(backend) or _Measured())
    known = {"openvino|cpu": {"new": False}}
    found = of_a_run.run_limits(plan, outcomes, lambda _: None, known=known, only_cached=False)
    assert asked == ["onnxruntime"]
    assert found == {"openvino|cpu": {"new": False}, "onnxruntime|cpu": {"new": True}}
    assert of_a_run.run_limits(plan, outcomes, lambda _: None, known={}, only_cached=True) == {}
