"""A run as a user makes it: from the request to the files in its folder."""

from __future__ import annotations

import inspect
import json
from pathlib import Path

import pytest

import slmbench
from slmbench.cli import run_main
from slmbench.errors import BadInputError
from slmbench.plan.request import RunRequest
from slmbench.records.schema import read_run


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> slmbench.RunResult:
    """The tiny pair on two engines, once for all tests here."""
    return slmbench.run(
        pairs=[("mu-tiny", "dec-tiny")],
        backends=["openvino", "onnxruntime"],
        input_tokens=[32],
        output_tokens=[8],
        repeat=6,
        out=tmp_path_factory.mktemp("runs") / "one",
    )


@pytest.mark.slow
def test_a_run_leaves_all_its_files_and_every_case_is_proven(finished: slmbench.RunResult) -> None:
    for name in ("run.json", "samples.jsonl", "table.md", "table.csv", "report.html"):
        assert (finished.folder / name).stat().st_size > 0, name
    run = finished.run
    assert not run.failures
    assert run.record.finished
    assert len(run.record.cases) == 4
    assert {load.agreement for load in run.loads} == {1.0}
    assert {load.executed_on for load in run.loads} == {"cpu"}
    assert {load.compute_precision for load in run.loads} == {"fp32"}
    assert all(len(sample.token_ns) == 8 for sample in run.samples)
    encoders = [sample for sample in run.samples if sample.case.startswith("mu-tiny")]
    assert all({"encode", "first_step"} <= set(sample.phases_ns) for sample in encoders)


@pytest.mark.slow
def test_the_table_has_the_columns_people_need(finished: slmbench.RunResult) -> None:
    table = finished.table()
    assert len(table) == 4
    assert (table["ttft_s"] > 0).all()
    assert (table["ttft_s_low"] <= table["ttft_s"]).all()
    text = (finished.folder / "table.md").read_text()
    assert "mu-tiny" in text
    assert "first token" in text


@pytest.mark.slow
def test_a_folder_with_a_run_in_it_is_not_written_over(finished: slmbench.RunResult) -> None:
    before = (finished.folder / "samples.jsonl").read_bytes()
    with pytest.raises(BadInputError, match="is not empty"):
        slmbench.run(models=["dec-tiny"], backends=["openvino"], out=finished.folder)
    assert (finished.folder / "samples.jsonl").read_bytes() == before


@pytest.mark.slow
def test_resuming_a_finished_run_measures_nothing_more(finished: slmbench.RunResult) -> None:
    before = (finished.folder / "samples.jsonl").read_bytes()
    slmbench.run(resume=finished.folder)
    assert (finished.folder / "samples.jsonl").read_bytes() == before


@pytest.mark.slow
def test_resuming_with_another_plan_is_refused(finished: slmbench.RunResult) -> None:
    with pytest.raises(BadInputError, match=r"was started .*, not with --model dec-tiny; leave it out"):
        slmbench.run(models=["dec-tiny"], backends=["openvino"], resume=finished.folder)


@pytest.mark.slow
def test_the_readmes_commands_on_finished_runs(
    finished: slmbench.RunResult, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    baseline = tmp_path / "baseline.json"
    folder = str(finished.folder)
    assert run_main(["table", folder]) == 0
    assert run_main(["compare", folder, folder]) == 0
    assert run_main(["baseline", "save", folder, str(baseline)]) == 0
    assert run_main(["check", "--baseline", str(baseline), folder]) in (0, 4)
    assert capsys.readouterr().out


@pytest.mark.slow
def test_json_on_stdout_is_nothing_but_json(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    arguments = "run --model llama-tiny --backend onnxruntime --input-tokens 8 --output-tokens 3 --repeat 1 --json"
    code = run_main([*arguments.split(), "--out", str(tmp_path / "r")])
    (row,) = json.loads(capfd.readouterr().out)
    assert code == 0
    assert row["model"] == "llama-tiny"
    # A sample that another process disturbed is taken once more.
    assert len([one for one in read_run(tmp_path / "r").samples if "retaken" not in one.flags]) == 1


def test_the_api_has_every_option_that_a_user_gives() -> None:
    # A fleet and more samples of a baseline ask for these.
    of_others = {"checkpoints", "only_cases", "suite_text", "carried", "routes"}
    named = set(inspect.signature(slmbench.run).parameters)
    assert named == set(RunRequest.model_fields) - of_others | {"observer"}
    with pytest.raises(BadInputError, match=r"slmbench\.run: input_tokens"):
        slmbench.run(input_tokens=["many"])  # type: ignore[list-item]


def test_read_run_returns_what_run_returned(finished: slmbench.RunResult) -> None:
    again = slmbench.read_run(finished.folder)
    assert isinstance(again, type(finished))
    assert again.table().equals(finished.table())
