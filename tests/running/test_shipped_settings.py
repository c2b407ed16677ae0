"""``--settings shipped``: each engine's own defaults, untouched and read back, next to fair ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from rotation import takes_turns

from slmbench.backend import UNASKED, load_backend
from slmbench.case import Case
from slmbench.cli import run_main
from slmbench.errors import BadInputError
from slmbench.measure.proof import SessionProof, judge
from slmbench.models.checkpoint import resolve
from slmbench.plan.planner import PlanOptions, make_plan
from slmbench.plan.refusal_reasons import shipped_refusal
from slmbench.plan.request import RunRequest, plan_request
from slmbench.plan.suite import Suite, parse_suite
from slmbench.records.schema import LoadRecord, read_run

WORK = {"input_tokens": 8, "output_tokens": 4}
CASE: dict[str, Any] = {
    "checkpoint": "dec-tiny", "backend": "openvino", "device": "cpu", "format": "openvino", "exporter": "slmbench",
    "weight_precision": "int8", "workload": {**WORK, "batch": 1},
}  # fmt: skip


def test_settings_are_part_of_the_key_and_fair_keys_are_what_they_were() -> None:
    fair = Case.model_validate({**CASE, "compute_precision": "fp32"})
    shipped = Case.model_validate({**CASE, "compute_precision": "default", "settings": "shipped"})
    assert fair.key == "dec-tiny|openvino|cpu|int8-fp32|openvino-dynamic-slmbench|in8-out4-b1"
    assert shipped.key == "dec-tiny|openvino|cpu|int8-default|openvino-dynamic-slmbench|in8-out4-b1|settings=shipped"
    with pytest.raises(ValueError, match="does not go with shipped settings"):
        Case.model_validate({**CASE, "compute_precision": "fp32", "settings": "shipped"})


def test_a_suite_multiplies_its_settings() -> None:
    suite = Suite.model_validate({"name": "s", "workloads": [WORK], "checkpoints": ["dec-tiny"], "backends": ["torch"],
                                  "settings": "fair,shipped"})  # fmt: skip
    made = make_plan(suite, {"dec-tiny": resolve("dec-tiny")}, PlanOptions())
    assert [(cell.case.settings, cell.case.compute_precision) for cell in made.cells] == [
        ("fair", "fp32"),
        ("shipped", "default"),
    ]
    assert [cell.options["settings"] for cell in made.cells] == ["fair", "shipped"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"settings": ("fast",)}, "--settings fast: Input should be 'fair' or 'shipped'"),
        (
            {"settings": ("shipped",), "precisions": ("int8/bf16",)},
            "the engine chooses what it computes in: write int8",
        ),
    ],
)
def test_what_does_not_go_with_shipped_settings_is_said(options: dict[str, Any], said: str) -> None:
    with pytest.raises(BadInputError, match=said):
        plan_request(RunRequest(models=("dec-tiny",), backends=("torch",), **options))


def test_a_wrong_key_in_a_suite_is_said_with_its_line() -> None:
    text = "name: s\ncheckpoints: [dec-tiny]\nsettings: fast\nworkloads: [{input_tokens: 8, output_tokens: 4}]\n"
    with pytest.raises(BadInputError, match="s.yaml:3: settings"):
        parse_suite(text, "s.yaml")


def test_a_backend_that_knows_no_defaults_is_refused() -> None:
    class Plugin:
        name = "numpy"

    spec = make_plan(
        Suite.model_validate({"name": "s", "workloads": [WORK], "checkpoints": ["dec-tiny"], "backends": ["torch"]}),
        {"dec-tiny": resolve("dec-tiny")},
        PlanOptions(),
    ).cells[0].spec  # fmt: skip
    plugin: Any = Plugin()
    assert "numpy does not say what its engine's own defaults are" in str(shipped_refusal(plugin, spec, "cpu"))
    assert shipped_refusal(load_backend("torch"), spec, "cpu") is None
    assert "NPU" in str(shipped_refusal(load_backend("openvino"), spec, "npu"))


def test_what_nobody_asked_for_fails_nothing() -> None:
    shown = {"agreement": 1.0, "agreement_tokens": 9, "executed_on": "cpu", "threads": 2, "cross_kv_once": None}
    proof = SessionProof(compute_precision="bf16", settings={"KV": (UNASKED, "u8")}, **shown)  # type: ignore[arg-type]
    shipped = Case.model_validate({**CASE, "compute_precision": "default", "settings": "shipped"})
    assert judge(shipped, proof) is None
    assert judge(Case.model_validate({**CASE, "compute_precision": "fp32"}), proof) is not None


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run of one model with both settings on every engine that is here."""
    pytest.importorskip("torch", reason="exporting needs slmbench[export]")
    out = tmp_path_factory.mktemp("both") / "run"
    names = "openvino,onnxruntime,onnxruntime_genai,llama_cpp"
    asked = ["run", "--model", "dec-tiny", "--settings", "fair,shipped", "--backend", names, "--repeat", "1"]
    assert run_main([*asked, "--input-tokens", "8", "--output-tokens", "4", "--out", str(out)]) == 0
    return out


def loads_of(folder: Path) -> dict[tuple[str, str], LoadRecord]:
    run = read_run(folder)
    cases = {info.case.key: info.case for info in run.record.cases}
    return {(cases[load.case].backend, cases[load.case].settings): load for load in run.loads}


@takes_turns(1, 2)
@pytest.mark.slow
def test_the_engines_own_defaults_are_read_back(both: Path) -> None:
    loads = loads_of(both)
    assert {settings for _, settings in loads} == {"fair", "shipped"}
    fair, shipped = loads["openvino", "fair"], loads["openvino", "shipped"]
    assert (fair.compute_precision, fair.settings["KV_CACHE_PRECISION"]) == ("fp32", "f32")
    # u8, or what optimum-intel wrote into its IR for OpenVINO to follow.
    assert shipped.settings["KV_CACHE_PRECISION"] in ("u8", "f16")
    assert int(shipped.settings["DYNAMIC_QUANTIZATION_GROUP_SIZE"]) > 0
    assert (fair.attention_path, shipped.attention_path) == ("SDPA+step", "SDPA")
    assert all(load.threads >= 1 and load.agreement == 1.0 for load in loads.values())


@takes_turns(1, 2)
@pytest.mark.slow
def test_llama_cpp_says_what_it_runs_with(both: Path) -> None:
    pytest.importorskip("llama_cpp", reason="needs slmbench[llama]")
    loads = loads_of(both)
    fair, shipped = loads["llama_cpp", "fair"], loads["llama_cpp", "shipped"]
    assert (fair.settings["kv_cache"], shipped.settings["kv_cache"]) == ("f32", "f16")
    assert (fair.settings["flash attention"], shipped.settings["flash attention"]) == ("disabled", "enabled")
    assert all(load.settings["mmap"] == "on" and int(load.settings["n_ubatch"]) > 0 for load in (fair, shipped))


@takes_turns(1, 2)
@pytest.mark.slow
def test_tables_and_comparisons_name_the_settings(both: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_main(["table", str(both), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    one = next(row for row in rows if row["settings"] == "shipped" and row["backend"] == "openvino")
    assert "KV_CACHE_PRECISION" in one["in_effect"]
    assert one["compute_precision"] != "default"
    assert run_main(["table", str(both), "--markdown"]) == 0
    assert "| shipped |" in capsys.readouterr().out
    assert run_main(["compare", str(both), str(both), "--where", "settings=shipped", "--format", "json"]) in (0, 1, 4)
    assert "settings=shipped" in capsys.readouterr().out
    report = (both / "report.html").read_text(encoding="utf-8")
    assert "the engine&#39;s own defaults, untouched" in report or "the engine's own defaults, untouched" in report
