from __future__ import annotations

from pathlib import Path

import pytest

from slmbench.cli import run_main
from slmbench.errors import BadInputError, CannotRunError
from slmbench.models.checkpoint import resolve
from slmbench.plan.planner import Plan, PlanOptions, make_plan
from slmbench.plan.refusal_reasons import missing_distribution
from slmbench.plan.request import OWN_BACKENDS, QUICK_BUDGET_S, RunRequest, plan_request, requested_suite
from slmbench.plan.suite import Suite
from slmbench.running.runner import measure_settings
from slmbench.system.extras import installed_version


def plan(options: PlanOptions | None = None, **fields: object) -> Plan:
    suite = Suite.model_validate(
        {"name": "s", "workloads": [{"input_tokens": 8, "output_tokens": 4}], "backends": ["openvino"], **fields}
    )
    return make_plan(suite, {name: resolve(name) for name in suite.all_checkpoints()}, options or PlanOptions())


def test_one_comparison_one_exporter() -> None:
    alone = plan(checkpoints=["llama-tiny"])
    own = installed_version("optimum-intel") is None
    assert {cell.spec.exporter for cell in alone.cells} == {"slmbench" if own else "optimum"}
    together = plan(pairs=[("mu-tiny", "dec-tiny")])
    assert {cell.spec.exporter for cell in together.cells} == {"slmbench"}


def test_a_backend_without_the_family_is_left_out_with_the_reason() -> None:
    made = plan(pairs=[("mu-tiny", "dec-tiny")], backends=["openvino", "openvino_genai"])
    assert [one.checkpoint for one in made.refusals] == ["mu-tiny"]
    assert "encoder-decoder" in made.refusals[0].reason
    assert len(made.cells) == 3


def test_every_attention_path_is_a_case_when_all_are_asked_for() -> None:
    made = plan(checkpoints=["dec-tiny"], backends=["openvino_genai"], attention="all")
    assert [cell.case.attention for cell in made.cells] == ["paged", "SDPA"]


def test_the_best_path_depends_on_the_workload() -> None:
    """In a conversation a decoder-only model's K/V would be carried at every turn, an encoder-decoder's never."""
    once = {"input_tokens": 8, "output_tokens": 4}
    chat = {**once, "turns": 3, "added_tokens": 4}
    paths = {}
    for name, work in (("once", once), ("chat", chat), ("uncached", {**once, "cache": "off"})):
        made = plan(pairs=[("mu-tiny", "dec-tiny")], workloads=[work])
        assert {cell.case.attention for cell in made.cells} == {None}
        paths[name] = [cell.options["attention"] for cell in made.cells]
    assert paths == {"once": [None, None], "chat": [None, "SDPA"], "uncached": ["SDPA", "SDPA"]}
    asked = plan(PlanOptions(attention="SDPA+step"), checkpoints=["dec-tiny"], workloads=[chat])
    assert asked.cells[0].options["attention"] == "SDPA+step"


def test_what_nobody_says_is_computed_as_the_engine_does() -> None:
    made = plan(checkpoints=["mu-tiny"], backends=["openvino", "onnxruntime"], precisions=["int8"])
    assert {c.case.backend: c.case.compute_precision for c in made.cells} == {"openvino": "fp32", "onnxruntime": "int8"}


def test_a_compute_precision_that_an_engine_does_not_have_is_refused() -> None:
    with pytest.raises(CannotRunError, match="int8 weights in int8 on CPUs, not in fp32"):
        plan(checkpoints=["mu-tiny"], backends=["onnxruntime"], precisions=["int8/fp32"])
    with pytest.raises(CannotRunError, match="fp32, fp16, bf16, not in int8"):
        plan(checkpoints=["mu-tiny"], backends=["openvino"], precisions=["int8/int8"])


def test_arms_multiply_cases_and_keys_differ() -> None:
    made = plan(PlanOptions(arms=("a", "b")), checkpoints=["dec-tiny"])
    assert len({cell.case.key for cell in made.cells}) == 2


def test_nothing_to_measure_names_every_reason() -> None:
    with pytest.raises(CannotRunError) as caught:
        plan(checkpoints=["mu-tiny"], backends=["openvino_genai"])
    assert "mu-tiny on openvino_genai" in str(caught.value)


def test_a_pair_of_one_family_is_refused() -> None:
    with pytest.raises(BadInputError, match="an encoder-decoder and then a decoder-only"):
        plan(pairs=[("dec-tiny", "mu-tiny")])


def test_the_digest_follows_cases_and_weights() -> None:
    assert plan(checkpoints=["dec-tiny"]).digest() == plan(checkpoints=["dec-tiny"]).digest()
    assert plan(checkpoints=["dec-tiny"]).digest() != plan(checkpoints=["mu-tiny"]).digest()


def test_text_prompts_have_a_length_for_each_checkpoint() -> None:
    options = PlanOptions(prompts_digest="abcd1234", prompt_tokens={"mu-tiny": 7, "dec-tiny": 9})
    made = plan(
        options,
        pairs=[("mu-tiny", "dec-tiny")],
        workloads=[{"input_tokens": [8, 16], "output_tokens": 4}],
    )
    assert {cell.case.checkpoint: cell.case.workload.input_tokens for cell in made.cells} == {
        "mu-tiny": 7,
        "dec-tiny": 9,
    }
    assert len(made.cells) == 2


def test_backend_options_are_checked_by_the_backends_own_type() -> None:
    made = plan(PlanOptions(backend_options=(("kv_cache", "u8"),)), checkpoints=["dec-tiny"])
    assert made.cells[0].options["kv_cache"] == "u8"
    with pytest.raises(BadInputError, match="option 'kv_cash' of openvino"):
        plan(PlanOptions(backend_options=(("kv_cash", "u8"),)), checkpoints=["dec-tiny"])


def test_a_missing_distribution_comes_with_the_remedy() -> None:
    class Absent:
        distributions = ("no-such-distribution",)

    assert "pip install" in (missing_distribution(Absent()) or "")  # type: ignore[arg-type]


@pytest.mark.parametrize("device", ["gpu", "npu"])
def test_a_device_that_is_not_there_is_named_with_what_was_looked_for(device: str) -> None:
    from slmbench.backend import load_backend

    if any(one.available and one.device == device for one in load_backend("openvino").devices()):
        pytest.skip(f"this machine has a {device}")
    with pytest.raises(CannotRunError, match="looked for") as caught:
        plan(checkpoints=["dec-tiny"], devices=[device])
    assert caught.value.exit_code == 5


@pytest.mark.parametrize("installed", [True, False])
@pytest.mark.parametrize(
    ("backend", "device"),
    [
        ("llama_cpp", "npu"),
        ("torch", "npu"),
        ("ctranslate2", "npu"),
        ("llama_cpp", "gpu"),
        ("onnxruntime_genai", "gpu"),
    ],
)
def test_nothing_is_to_be_installed_for_a_backend_that_has_no_way_to_the_device(
    backend: str, device: str, installed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not installed:
        monkeypatch.setattr("slmbench.plan.refusal_reasons.installed_version", lambda name: None)
    for simulate in (False, True):
        with pytest.raises(CannotRunError, match=f"no {device.upper()} support") as caught:
            plan(PlanOptions(simulate=simulate), checkpoints=["dec-tiny"], backends=[backend], devices=[device])
        assert "install" not in str(caught.value)


def test_an_exporter_that_a_backend_does_not_take_comes_with_a_way_out() -> None:
    with pytest.raises(CannotRunError, match="not by exporter generic: leave that out, or --exporter optimum"):
        plan(
            PlanOptions(simulate=True),
            checkpoints=["llama-tiny"],
            backends=["openvino_genai"],
            devices=["npu"],
            exporter="generic",
        )
    made = plan(
        PlanOptions(simulate=True),
        pairs=[("mu-tiny", "dec-tiny")],
        backends=["openvino", "openvino_genai"],
        devices=["cpu", "npu"],
    )
    told = [one.reason for one in made.refusals if (one.checkpoint, one.device) == ("dec-tiny", "npu")]
    assert len(told) == 1
    assert "measure this one in a run of its own, or --exporter optimum" in told[0]


def test_npus_get_weights_that_both_vendors_take() -> None:
    npu = RunRequest(models=("t5-tiny",), devices=("npu",))
    assert requested_suite(npu).precisions == ["fp16"]
    assert requested_suite(npu.model_copy(update={"precisions": ("int8",)})).precisions == ["int8"]
    assert requested_suite(npu.model_copy(update={"devices": ("cpu", "npu")})).precisions == ["fp32"]
    smoke = RunRequest(suite="smoke", devices=("npu",))
    assert requested_suite(smoke).precisions == requested_suite(RunRequest(suite="smoke")).precisions


@pytest.mark.parametrize("devices", [(), ("cpu",), ("gpu",), ("cpu", "npu")])
def test_a_simulation_is_of_an_npu_alone(devices: tuple[str, ...]) -> None:
    with pytest.raises(BadInputError, match="it goes with --device npu and no other device"):
        requested_suite(RunRequest(simulate=True, devices=devices))


def test_the_default_request_is_the_quick_suite() -> None:
    suite = requested_suite(RunRequest())
    assert suite.name == "quick"
    assert suite.pairs == [("mu-small", "dec-small")]
    # Few cells, many loads: three configurations, and an interval that is reached on a quiet machine.
    assert suite.backends == ["openvino", "openvino_genai"]
    assert measure_settings(RunRequest(), suite).targets() == {"ttft": 0.1, "tpot": 0.1}


def test_models_of_the_users_run_on_all_common_engines_with_each_metrics_own_target() -> None:
    request = RunRequest(models=("t5-tiny",))
    suite = requested_suite(request)
    assert suite.backends == OWN_BACKENDS
    assert measure_settings(request, suite).targets() == {"ttft": 0.03, "tpot": 0.02}
    one = RunRequest(models=("t5-tiny",), backends=("torch",), interval_target=0.1)
    assert requested_suite(one).backends == ["torch"]
    assert measure_settings(one, requested_suite(one)).targets() == {"ttft": 0.1, "tpot": 0.1}


def test_quick_is_a_budget_after_a_load_of_each_case(capsys: pytest.CaptureFixture[str]) -> None:
    request = RunRequest(quick=True, suite="smoke")
    settings = measure_settings(request, requested_suite(request))
    assert (settings.budget_s, settings.strict_budget, settings.repeat) == (QUICK_BUDGET_S, False, None)
    assert settings.first_loads == 1
    with pytest.raises(BadInputError, match="does not go with --budget or --repeat"):
        requested_suite(RunRequest(quick=True, budget_s=9))
    assert run_main(["run", "--quick", "--model", "mu-tiny", "--backend", "openvino", "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "ends after 40 s (--quick)" in said
    assert "too small" not in said


def test_models_replace_the_suites_checkpoints_and_keep_its_workloads() -> None:
    suite = requested_suite(RunRequest(models=("t5-tiny",), output_tokens=(5,)))
    assert suite.all_checkpoints() == ["t5-tiny"]
    assert suite.workloads[0].input_tokens == [512]
    assert suite.workloads[0].output_tokens == [5]


def test_a_catalog_model_has_no_tokenizer_for_text(tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text("hello\n")
    with pytest.raises(BadInputError, match="a catalog model has no tokenizer"):
        plan_request(RunRequest(models=("t5-tiny",), prompts=tmp_path / "p.txt"))


@pytest.mark.parametrize(
    ("fields", "part"),
    [
        ({"models": ("t5-small", "t5-base"), "revision": "main"}, "--revision goes with exactly one"),
        ({"arms": (("a", "/no/such"), ("b", "/no/such"))}, "no such interpreter"),
        ({"threads": 100_000}, "threads asked for"),
        ({"output_tokens": (0,)}, "greater than 0"),
        ({"scale": "tiny"}, "no scale 'tiny'"),
    ],
)
def test_wrong_requests_say_what_is_wrong(fields: dict[str, object], part: str) -> None:
    with pytest.raises(BadInputError, match=part):
        plan_request(RunRequest.model_validate(fields))


def talk(**more: object) -> list[dict[str, object]]:
    return [{"input_tokens": 8, "output_tokens": 4, **more}]


def test_a_backend_that_cannot_is_left_out_by_name() -> None:
    for more, what in (
        ({"turns": 2, "added_tokens": 4}, "openvino_genai cannot continue a conversation"),
        ({"answers": 4}, "openvino_genai cannot generate several answers"),
        ({"sampling": "random"}, "openvino_genai cannot sample"),
        ({"cache": "off"}, "openvino_genai cannot run without"),
    ):
        made = plan(checkpoints=["dec-tiny"], backends=["openvino", "openvino_genai"], workloads=talk(**more))
        assert {cell.case.backend for cell in made.cells} == {"openvino"}
        assert [one.reason for one in made.refusals if what in one.reason], what


def test_optimums_decoder_does_not_read_a_prompt_once_for_several_answers() -> None:
    with pytest.raises(CannotRunError, match=r"several answers per prompt .*optimum's dynamic"):
        plan(checkpoints=["t5-tiny"], workloads=talk(answers=4), exporter="optimum")
    assert plan(checkpoints=["t5-tiny"], workloads=talk(answers=4), exporter="slmbench").cells


@pytest.mark.parametrize("turns", [1, 1000])
def test_lengths_are_those_of_the_last_turn(turns: int) -> None:
    more = {"turns": turns, "added_tokens": 16} if turns > 1 else {}
    made = {"checkpoints": ["llama-tiny"], "workloads": talk(**more)}
    if turns == 1:
        assert plan(**made).cells
    else:
        with pytest.raises(CannotRunError, match="prompt of 19988 tokens after 1000 turns is longer than"):
            plan(**made)


def test_a_pair_of_other_sizes_is_none(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(
        "name: mine\npairs:\n  - [mu-tiny, dec-tiny]\n  - [mu-tiny, llama-tiny]\n"
        "workloads:\n  - {input_tokens: 8, output_tokens: 4}\n"
    )
    with pytest.raises(BadInputError, match=r"mine\.yaml:4: pairs: pair mu-tiny,llama-tiny: 4\.5M and 0\.4M param"):
        plan_request(RunRequest(suite=str(file)))
    # What the command line says instead stands in no file.
    with pytest.raises(BadInputError, match=r"^pair dec-tiny,mu-tiny: an encoder-decoder and then"):
        plan_request(RunRequest(suite=str(file), pairs=(("dec-tiny", "mu-tiny"),)))


def test_lengths_beyond_a_models_positions_are_told_with_the_line(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("name: mine\ncheckpoints: [bart-tiny]\nworkloads:\n  - {input_tokens: 4096, output_tokens: 4}\n")
    with pytest.raises(CannotRunError, match=r"mine\.yaml:3: workloads: a prompt of 4096 tokens is longer than bart-t"):
        plan_request(RunRequest(suite=str(file)))


def test_a_pair_of_folders_is_judged_by_their_names() -> None:
    """Cases have names, the command line has paths: a pair must find its cases all the same."""
    workload = {"input_tokens": 8, "output_tokens": 2}
    suite = Suite.model_validate(
        {"name": "s", "pairs": [("./a", "./b")], "backends": ["torch"], "workloads": [workload]}
    )
    folders = {
        reference: resolve(name).model_copy(update={"name": reference.removeprefix("./")})
        for reference, name in (("./a", "mu-tiny"), ("./b", "dec-tiny"))
    }
    made = make_plan(suite, folders, PlanOptions())
    assert made.suite.pairs == [("a", "b")]
    assert {cell.case.checkpoint for cell in made.cells} == {"a", "b"}
