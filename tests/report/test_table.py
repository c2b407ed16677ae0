"""The run table: every figure from the samples, nothing invented, nothing silently missing."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from synthetic import LIMITS, PAIR, Made, Speed, make_run

from slmbench.analysis.metrics import model_of
from slmbench.analysis.stats import Interval
from slmbench.records.sample_arrays import columns_of, read_columns
from slmbench.records.schema import FailureRecord, LoadRecord, Outcome, read_run
from slmbench.report.csv_text import csv_text, json_rows
from slmbench.report.run_columns import text_table
from slmbench.report.run_table import run_table, table_rows
from slmbench.report.sentences import pair_sentences
from slmbench.report.text_table import bounded, bracketed, markdown_sentence, number
from slmbench.report.write import print_run, table_markdown, write_reports


def row_of(made: Made, tmp_path: Path, index: int = 0) -> dict[str, Any]:
    return run_table(read_columns(made.write(tmp_path / "run"))).to_dict("records")[index]


def shown(made: Made, tmp_path: Path, width: int = 120) -> str:
    console = Console(file=io.StringIO(), width=width)
    print_run(console, read_columns(made.write(tmp_path / "run")))
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_figures_are_what_the_samples_say(tmp_path: Path) -> None:
    made = make_run([Speed(model="mu", family="encoder-decoder", loads=4, rounds=5)], limits=LIMITS)
    row = row_of(made, tmp_path)
    run = read_run(tmp_path / "run")
    loads = {load: [s for s in run.samples if s.load == load] for load in range(4)}
    by_load = [np.median([s.token_ns[0] for s in samples]) for samples in loads.values()]
    assert row["ttft_s"] == pytest.approx(np.exp(np.mean(np.log(by_load))) / 1e9)
    assert row["ttft_s_low"] < row["ttft_s"] < row["ttft_s_high"]
    assert row["decode_tps"] == pytest.approx(1 / row["tpot_s"])
    assert row["decode_tps_low"] == pytest.approx(1 / row["tpot_s_high"])
    assert row["prefill_tps"] == pytest.approx(512 / row["ttft_s"])
    gaps = np.concatenate([np.diff(s.token_ns) for s in run.samples])
    assert row["itl_p50_s"] == pytest.approx(np.percentile(gaps, 50) / 1e9)
    assert row["itl_p99_s"] == pytest.approx(np.percentile(gaps, 99) / 1e9)
    assert row["encode_s"] + row["first_step_s"] == pytest.approx(row["ttft_s"], rel=0.01)
    assert (row["loads"], row["samples"], row["agreement"], row["converged"]) == (4, 20, 1.0, True)
    assert 0 < row["bandwidth_use"] < 1
    rate = LIMITS["openvino|cpu"]["matrix"]["fp32"]["flops_per_s"]
    flops = model_of(run.record.cases[0], [], {}).first_token_flops
    assert row["compute_use"] == pytest.approx(flops / row["ttft_s"] / rate)


def test_a_blob_from_the_cache_is_no_compile_time(tmp_path: Path) -> None:
    made, number = make_run([Speed(loads=3, rounds=2)]), 0
    for index, line in enumerate(made.lines):
        if isinstance(line, LoadRecord):
            cold = number == 0
            update = {"compile_ns": 900_000_000 if cold else 100_000_000, "engine_cache": not cold}
            made.lines[index], number = line.model_copy(update=update), number + 1
    assert number == 3
    assert row_of(made, tmp_path)["compile_s"] == pytest.approx(0.9)


def test_what_was_not_measured_is_empty(tmp_path: Path) -> None:
    row = row_of(make_run([Speed(output_tokens=2, loads=2, rounds=3)]), tmp_path)
    assert math.isnan(row["itl_p90_s"])  # 6 gaps, 36 are needed
    assert math.isfinite(row["itl_p50_s"])
    for name in ("encode_s", "ttft_text_s", "energy_per_token_j", "bandwidth_use", "compute_use"):
        assert math.isnan(row[name])


def test_simulated_cases_have_no_times_anywhere(tmp_path: Path) -> None:
    made = make_run([Speed(simulate=True), Speed(model="mu-small", family="encoder-decoder")])
    frame = run_table(read_columns(made.write(tmp_path / "run")))
    simulated = frame[frame["case"].str.contains("simulate")].iloc[0]
    times = [name for name in frame.columns if "_s" in name or "tps" in name]
    assert simulated[times].isna().all()
    assert simulated["agreement"] == 1.0
    text = shown(made, tmp_path)
    assert "dec-small on openvino in fp32 (512 / 32): simulated: no times" in text
    assert "nothing to say" in text


def test_a_stand_in_for_a_device_has_no_times_either(tmp_path: Path) -> None:
    made = make_run([Speed(loads=2)])
    made.lines = [
        line.model_copy(update={"executed_on": "npuw-cpu"}) if line.type == "load" else line for line in made.lines
    ]
    assert math.isnan(row_of(made, tmp_path)["ttft_s"])


@pytest.mark.parametrize("reason", ["wrong tokens", "wrong device", "wrong precision"])
def test_a_case_without_its_proof_has_no_figures_and_its_reason_is_shown(tmp_path: Path, reason: str) -> None:
    made = make_run([*PAIR])
    made.lines.append(FailureRecord(case=PAIR[0].case.key, reason=reason, message="not as asked"))
    assert math.isnan(row_of(made, tmp_path)["ttft_s"])
    assert f"mu-small on openvino in fp32 (512 / 32): failed: {reason}: not as asked" in shown(made, tmp_path)


def test_a_case_that_crashed_later_keeps_what_it_has_and_says_so(tmp_path: Path) -> None:
    made = make_run([Speed(loads=3)])
    made.lines.append(FailureRecord(case=Speed().case.key, load=3, reason="crashed", message="SIGSEGV"))
    row = row_of(made, tmp_path)
    assert math.isfinite(row["ttft_s"])
    assert "stopped early" in row["flags"]
    assert "failed: crashed: SIGSEGV" in shown(made, tmp_path)


def test_a_case_that_was_never_reached_is_listed(tmp_path: Path) -> None:
    made = make_run([*PAIR])
    made.lines = [line for line in made.lines if line.case != PAIR[1].case.key]
    assert "dec-small on openvino in fp32 (512 / 32): failed: not measured" in shown(made, tmp_path)


def test_one_load_has_no_interval_and_drift_is_flagged(tmp_path: Path) -> None:
    assert "one load" in row_of(make_run([Speed(loads=1)]), tmp_path)["flags"]
    assert "ttft drifts" in row_of(make_run([Speed(loads=6)], drift=0.08, seed=2), tmp_path)["flags"]


def test_flags_are_letters_on_a_terminal_and_words_in_files(tmp_path: Path) -> None:
    made = make_run([Speed(loads=1, flags=("foreign_load",)), Speed(model="other")])
    lines = shown(made, tmp_path).splitlines()
    assert next(line for line in lines if line.startswith("dec-small")).split()[-1] == "1L"
    assert "Flags: 1 one load, no interval; L other processes disturbed samples" in lines
    run = read_columns(tmp_path / "run")
    assert "other processes disturbed 100% of samples" in table_markdown(run, table_rows(run))


def test_a_case_that_did_not_converge_says_so(tmp_path: Path) -> None:
    made = make_run([Speed()])
    outcome = Outcome(loads=6, converged={"ttft": False, "tpot": True})
    made.record = made.record.model_copy(update={"outcomes": {Speed().case.key: outcome}})
    row = row_of(made, tmp_path)
    assert row["converged"] is False
    assert "not converged" in row["flags"]


def test_a_stopped_run_flags_what_its_cells_call_not_converged(tmp_path: Path) -> None:
    """Only a run that ended says which of its cases converged."""
    made = make_run([Speed(loads=2, between=0.6), Speed(model="sure")])
    made.record = made.record.model_copy(update={"outcomes": {}, "finished": None})
    lines = shown(made, tmp_path).splitlines()
    cells = {line.split()[0]: line for line in lines if line.startswith(("dec-small ", "sure "))}
    assert "[not converged]" in cells["dec-small"]
    assert "C" in cells["dec-small"].split()[-1]
    assert "C" not in cells["sure"].split()[-1]
    assert any(line.startswith("Flags: C not converged: ") for line in lines)


def test_a_command_in_a_note_stays_code_in_markdown() -> None:
    assert markdown_sentence("a*b: `slmbench limits --again` helps") == r"a\*b: `slmbench limits --again` helps"
    assert markdown_sentence("`<img>` and `[x](y)` of `me") == r"\`&lt;img&gt;\` and \`[x]\(y)\` of \`me"


@pytest.mark.parametrize("width", [100, 120])
def test_the_terminal_table_fits(tmp_path: Path, width: int) -> None:
    speeds = [
        Speed(model=model, family=family, backend=backend, engine=backend, attention=path, input_tokens=length)
        for length in (128, 512)
        for backend, path in (("openvino", "SDPA"), ("onnxruntime", "GroupQueryAttention"))
        for model, family in (("mu-small", "encoder-decoder"), ("dec-small", "decoder-only"))
    ]
    lines = shown(make_run(speeds), tmp_path, width).splitlines()
    assert all(len(line) <= width for line in lines)
    rows = [
        line for line in lines if line.startswith(("mu-small ", "dec-small ")) and "[" in line and "(60.0M)" not in line
    ]
    assert len(rows) == len(speeds)
    assert "exporter: slmbench" in lines[0]


def test_files_are_written_and_a_csv_has_every_case(tmp_path: Path) -> None:
    folder = make_run([*PAIR]).write(tmp_path / "run")
    write_reports(read_run(folder))
    rows = list(csv.DictReader((folder / "table.csv").open(encoding="utf-8")))
    assert [row["case"] for row in rows] == [speed.case.key for speed in PAIR]
    assert float(rows[0]["ttft_s_low"]) < float(rows[0]["ttft_s"])
    assert "| mu-small |" in (folder / "table.md").read_text(encoding="utf-8")
    assert (folder / "report.html").stat().st_size > 500_000
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]


def test_a_run_of_nothing_is_a_table_of_nothing(tmp_path: Path) -> None:
    folder = make_run([]).write(tmp_path / "run")
    assert run_table(read_columns(folder)).empty
    write_reports(read_columns(folder))
    assert (folder / "table.md").exists()


def test_names_from_outside_cannot_break_a_table(tmp_path: Path) -> None:
    name = "a|b\x1b[31m<img src=x onerror=alert(1)>[x](javascript:1)"
    run = columns_of(read_run(make_run([Speed(model=name)]).write(tmp_path / "run")))
    markdown = table_markdown(run, table_rows(run))
    assert "<img" not in markdown
    assert "\x1b" not in markdown
    assert "](" not in markdown
    assert r"a\|b" in markdown


def test_sentences_say_which_way_round_it_is(tmp_path: Path) -> None:
    def sentence(**changes: float) -> str:
        speeds = [
            Speed(model="mu", family="encoder-decoder", loads=10, **{"ttft_ms": 100.0, "tpot_ms": 10.0, **changes}),
            Speed(model="dec", loads=10, between=changes.get("between", 0.015)),
        ]
        (text,) = pair_sentences(columns_of(read_run(make_run(speeds).write(tmp_path / str(changes)))))
        return text

    sooner = sentence(ttft_ms=50, tpot_ms=5)
    found = re.match(
        r"mu \(60.0M\) reaches its first token (.*)x sooner \[(.*), (.*)\] and decodes (.*)x faster \[", sooner
    )
    assert found is not None
    ratio, low, high, decode = map(float, found.groups())
    assert low <= ratio <= high
    assert (ratio, decode) == (pytest.approx(2, rel=0.04), pytest.approx(2, rel=0.04))
    assert "at 512 in / 32 out on openvino fp32 (against SDPA)" in sooner
    later = sentence(ttft_ms=200, tpot_ms=20)
    assert "x later [" in later
    assert "x slower [" in later
    equal = sentence()
    assert "as soon (no difference larger than" in equal
    unknown = sentence(between=0.2)
    assert "(the loads vary too much to tell)" in unknown
    assert " later and " in unknown


def test_only_where_loads_are_few_more_of_them_are_missing(tmp_path: Path) -> None:
    def sentence(loads: int) -> str:
        speeds = [
            Speed(model=model, family=family, loads=loads, between=0.2)
            for model, family in (("mu", "encoder-decoder"), ("dec", "decoder-only"))
        ]
        (text,) = pair_sentences(columns_of(read_run(make_run(speeds).write(tmp_path / str(loads)))))
        return text

    assert "too few loads to tell" in sentence(2)
    assert "vary too much" not in sentence(2)
    for loads in (3, 12):
        assert "the loads vary too much to tell" in sentence(loads)
        assert "too few" not in sentence(loads)


def test_a_pair_is_judged_against_the_best_decoder_path(tmp_path: Path) -> None:
    speeds = [
        Speed(model="mu", family="encoder-decoder", ttft_ms=60, tpot_ms=8),
        Speed(model="dec", attention="eager", ttft_ms=200, tpot_ms=20),
        Speed(model="dec", backend="openvino_genai", attention="paged", ttft_ms=66, tpot_ms=12),
        Speed(model="dec", backend="onnxruntime", engine="onnxruntime", attention="GQA", ttft_ms=30, tpot_ms=3),
    ]
    (text,) = pair_sentences(columns_of(read_run(make_run(speeds).write(tmp_path / "run"))))
    assert 1.05 < float(text.split("first token ")[1].split("x")[0]) < 1.15
    assert 1.4 < float(text.split("decodes ")[1].split("x")[0]) < 1.6
    assert "(against paged by openvino_genai)" in text


@pytest.mark.parametrize(
    ("value", "text"), [(0.0512, "0.0512"), (51.23, "51.2"), (1234.5, "1234"), (0, "0"), (math.nan, "-")]
)
def test_numbers_have_three_digits(value: float, text: str) -> None:
    assert number(value) == text


@pytest.mark.parametrize("width", [100, 140])
def test_of_the_only_case_settings_stand_above_and_figures_in_its_row(tmp_path: Path, width: int) -> None:
    made = make_run([Speed(model="mu", family="encoder-decoder", loads=4, rounds=5)], limits=LIMITS)
    made.write(tmp_path / "run")
    table = text_table(table_rows(read_columns(tmp_path / "run")), width)
    assert {"ttft ms [95 %]", "tok/s [95 %]", "agreement", "memory"} <= set(table.headers)
    assert "threads" in table.common
    everything = text_table(table_rows(read_columns(tmp_path / "run")))
    assert set(everything.headers) == {*table.headers, *table.common}
    assert not [note for note in table.notes if "Left out" in note]


@pytest.mark.parametrize("bounds", [(51.8, 52.4), (math.nan, math.nan), (7.9, 258.0), (1e-6, 3e9)])
def test_a_sentence_says_of_an_interval_what_the_table_says(bounds: tuple[float, float]) -> None:
    low, high = bounds
    shown = bounded({"x": 52.1, "x_low": low, "x_high": high}, "x")
    assert f"52.1{bracketed(Interval(low, 52.1, high))}" == shown


def test_bounds_have_the_digits_of_their_figure() -> None:
    assert bounded({"x": 0.05213, "x_low": 0.0518, "x_high": 0.05242}, "x", 1e3) == "52.1 [51.8, 52.4]"
    assert bounded({"x": 0.05213, "x_low": math.nan, "x_high": math.nan}, "x", 1e3) == "52.1 [?]"
    assert bounded({"x": 0.05213, "x_low": 1e-9, "x_high": 3e6}, "x", 1e3) == "52.1 [not converged]"


def test_json_and_csv_have_no_figure_that_is_not_known() -> None:
    """A bound beyond every number is as unknown as NaN, and JSON has a word for neither."""
    rows = [{"model": "m", "ttft_s": 0.5, "ttft_s_low": math.nan, "ttft_s_high": math.inf, "loads": 2}]
    (row,) = json.loads(json_rows(rows), parse_constant=lambda word: pytest.fail(word))
    assert row == {"model": "m", "ttft_s": 0.5, "ttft_s_low": None, "ttft_s_high": None, "loads": 2}
    assert csv_text(rows).splitlines()[1] == "m,0.5,,,2"
