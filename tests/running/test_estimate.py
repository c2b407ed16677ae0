"""What a plan will take, before anything is exported or measured."""

from __future__ import annotations

import pytest

from slmbench.models.checkpoint import resolve
from slmbench.plan.planner import PlanOptions, make_plan
from slmbench.plan.suite import Suite
from slmbench.running.estimate import CaseEstimate, estimate
from slmbench.running.settings import MeasureSettings

pytest.importorskip("openvino", reason="needs slmbench[cpu]")


def case_of(checkpoint: str, backend: str, attention: str | None = None) -> CaseEstimate:
    suite = Suite.model_validate(
        {
            "name": "s",
            "checkpoints": [checkpoint],
            "backends": [backend],
            "workloads": [{"input_tokens": 8, "output_tokens": 4}],
        }
    )
    plan = make_plan(suite, {checkpoint: resolve(checkpoint)}, PlanOptions(attention=attention))
    return estimate(plan, MeasureSettings()).cases[0]


def test_weights_that_are_held_twice_are_counted_twice() -> None:
    """Steps by a graph of their own hold a decoder-only model's weights once more, and an encoder-decoder's not."""
    weights = resolve("dec-small").parameter_count * 4
    plain, own = (case_of("dec-small", "openvino", path).memory_bytes for path in ("SDPA", "SDPA+step"))
    assert own - plain == weights
    assert case_of("dec-small", "openvino").memory_bytes == own
    assert case_of("mu-small", "openvino", "SDPA").memory_bytes == case_of("mu-small", "openvino").memory_bytes


def test_an_engine_that_reads_weights_where_they_are_takes_less() -> None:
    pytest.importorskip("onnxruntime", reason="needs slmbench[cpu]")
    assert case_of("dec-small", "onnxruntime").memory_bytes < case_of("dec-small", "openvino", "SDPA").memory_bytes
