"""Comparing and checking from the command line: output, exit codes, other tools' formats."""

from __future__ import annotations

import csv
import io
import json
import sys
from pathlib import Path
from subprocess import run
from xml.etree import ElementTree

import jsonschema
import pytest
from synthetic import MACHINE, PAIR, Speed, edit_json, floor_of, make_run

from slmbench.analysis.metrics import Side
from slmbench.analysis.sides import read_side, read_sides
from slmbench.analysis.verdicts import Comparison, compare_sides
from slmbench.cli import run_main
from slmbench.errors import ExitCode
from slmbench.plan.request import RunRequest
from slmbench.report.check_summary import Sampler, judge_until_conclusive
from slmbench.report.comparison import seen_in
from slmbench.report.comparison_columns import COLUMNS
from slmbench.report.comparison_rows import rows_of
from slmbench.report.formats import bencher_json, github_json, junit_xml
from slmbench.report.github import annotation_lines, job_summary

pytestmark = pytest.mark.usefixtures("calibrated")

#: As published at https://bencher.dev/bmf.json.
BMF_SCHEMA = {
    "$schema": "http://json-schema.org/draft-07/schema",
    "type": "object",
    "patternProperties": {
        ".+": {
            "type": "object",
            "patternProperties": {
                ".+": {
                    "type": "object",
                    "properties": {name: {"type": "number"} for name in ("value", "lower_value", "upper_value")},
                    "required": ["value"],
                }
            },
        }
    },
}


@pytest.fixture
def runs(tmp_path: Path) -> tuple[str, str]:
    """A base run, and one whose decoder-only case takes 10 % longer to the first token."""
    base = [Speed(model="mu-small", family="encoder-decoder", loads=10), Speed(loads=10)]
    slow = [base[0], Speed(loads=10, ttft_ms=110)]
    return str(make_run(base, seed=1).write(tmp_path / "base")), str(make_run(slow, seed=2).write(tmp_path / "slow"))


@pytest.fixture
def comparison(runs: tuple[str, str]) -> Comparison:
    base, new = read_side(runs[0]), read_side(runs[1])
    return compare_sides(base, new, floor=floor_of(base.cases))


def test_check_fails_on_a_slowed_case_and_passes_on_itself(
    runs: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    base, slow = runs
    assert run_main(["check", "--baseline", base, slow]) == ExitCode.REGRESSED
    assert "check REGRESSED: slow against base: 1 regressed, 3 unchanged" in capsys.readouterr().out
    assert run_main(["check", "--baseline", base, base]) == ExitCode.OK
    assert "check passed" in capsys.readouterr().out


def test_a_saved_baseline_gates_and_is_a_few_kilobytes(runs: tuple[str, str], tmp_path: Path) -> None:
    file = tmp_path / "baseline.json"
    assert run_main(["baseline", "save", runs[0], str(file)]) == ExitCode.OK
    assert file.stat().st_size < 6000
    assert run_main(["baseline", "show", str(file)]) == ExitCode.OK
    assert run_main(["check", "--baseline", str(file), runs[1]]) == ExitCode.REGRESSED
    assert run_main(["check", "--baseline", str(file), runs[1], "--gate", "20%"]) == ExitCode.OK
    assert run_main(["check", "--baseline", str(file), runs[1], "--where", "model=mu-*"]) == ExitCode.OK


def test_an_uncertain_baseline_is_said_when_saved_and_when_it_is_why_nothing_can_be_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wild, file = make_run([Speed(loads=4, between=0.3)], seed=3).write(tmp_path / "wild"), tmp_path / "baseline.json"
    edit_json(wild / "run.json", outcomes={Speed().case.key: {"loads": 4, "converged": {"ttft": False, "tpot": False}}})
    calm = str(make_run([Speed(loads=10)], seed=4).write(tmp_path / "calm"))
    assert run_main(["baseline", "save", str(wild), str(file)]) == ExitCode.OK
    said = capsys.readouterr().err
    assert "warning: 1 of 1 case did not converge: a check against them may be inconclusive" in said
    assert len(said.splitlines()) == 1
    assert run_main(["check", "--baseline", str(file), calm]) == ExitCode.INCONCLUSIVE
    last = " ".join(capsys.readouterr().out.split()).partition("check INCONCLUSIVE")[2]
    assert "the base's own interval is wider than the gate (base +/-" in last
    assert "measure the base again, with more loads" in last
    # A firm one says nothing, and an uncertain new run is not blamed on it.
    assert run_main(["baseline", "save", calm, str(file)]) == ExitCode.OK
    assert not capsys.readouterr().err
    assert run_main(["check", "--baseline", str(file), str(wild)]) != ExitCode.OK
    assert "measure the base again" not in capsys.readouterr().out


def test_a_baseline_says_that_its_run_was_stopped_and_what_it_replaced(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, file = make_run([Speed()]).write(tmp_path / "run"), tmp_path / "baseline.json"
    assert run_main(["baseline", "save", str(run), str(file)]) == ExitCode.OK
    captured = capsys.readouterr()
    assert captured.out.endswith(" kB\n")
    assert captured.err == ""
    edit_json(run / "run.json", finished=None)
    assert run_main(["baseline", "save", str(run), str(file)]) == ExitCode.OK
    captured = capsys.readouterr()
    assert captured.out.endswith("; replaced the baseline of 2026-01-02T03:04:05+00:00\n")
    assert captured.err == f"warning: {run} was stopped before its end; `slmbench run --resume {run}` continues it\n"
    (tmp_path / "mine.txt").write_text("mine", encoding="utf-8")
    assert run_main(["baseline", "save", str(run), str(tmp_path / "mine.txt")]) == ExitCode.OK
    assert capsys.readouterr().out.endswith("; replaced a file that was no baseline\n")


@pytest.mark.parametrize(
    ("asked", "helps"),
    [
        (RunRequest(models=("dec-small",)), "by `slmbench run` with a larger --budget"),
        (
            RunRequest(models=("dec-small",), repeat=6),
            "by `slmbench run` without --repeat, which takes 5 loads at most",
        ),
        (RunRequest(suite="smoke"), "with a suite that has no `repeat` (smoke has, and takes 5 loads at most)"),
        (RunRequest(quick=True), "by `slmbench run` without --quick"),
        (RunRequest(suite="gone/suite.yaml"), "for longer"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_uncertain_baseline_comes_with_the_option_that_helps(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], asked: RunRequest, helps: str
) -> None:
    run = make_run([Speed()]).write(tmp_path / "run")
    wide = {Speed().case.key: {"loads": 4, "converged": {"ttft": False, "tpot": False}}}
    edit_json(run / "run.json", outcomes=wide, options=asked.model_dump(mode="json"))
    assert run_main(["baseline", "save", str(run), str(tmp_path / "b.json")]) == ExitCode.OK
    assert f"measure again on a quiet machine, {helps}, and save that" in capsys.readouterr().err


def test_a_disturbed_baseline_needs_a_quiet_machine_and_no_option(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run([Speed(flags=("foreign_load",))]).write(tmp_path / "run")
    assert run_main(["baseline", "save", str(run), str(tmp_path / "b.json")]) == ExitCode.OK
    assert capsys.readouterr().err.endswith("; measure again on a quiet machine and save that\n")


def test_unlike_machines_end_with_3_also_when_shown(
    runs: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    machine = {**MACHINE, "hardware": {**MACHINE["hardware"], "cpu_model": "Other 1"}}
    other = str(make_run([*PAIR], machine=machine).write(tmp_path / "other"))
    assert run_main(["check", "--baseline", runs[0], other]) == ExitCode.NOT_COMPARABLE
    assert "cpu_model: Example 9000 / Other 1" in capsys.readouterr().err
    assert run_main(["check", "--baseline", runs[0], other, "--allow-different-machine"]) == ExitCode.NOT_COMPARABLE
    assert "· not judged" in capsys.readouterr().out
    assert run_main(["compare", runs[0], other]) == ExitCode.NOT_COMPARABLE
    assert run_main(["compare", runs[0], other, "--allow-different-machine"]) == ExitCode.OK


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["compare", "{base}"], 2, "compared by its arms"),
        (["compare", "{base}", "nowhere"], 2, "no such run"),
        (["compare", "{base}", "{slow}", "--metric", "tftt"], 2, "unknown metric 'tftt'"),
        (["compare", "{base}", "{slow}", "--sort", "rtio"], 2, "--sort rtio: unknown"),
        (["compare", "{base}", "{slow}", "--group", "x"], 2, "--group x: unknown"),
        (["compare", "{base}", "{slow}", "--columns", "x"], 2, "unknown column 'x'"),
        (["compare", "{base}", "{slow}", "--format", "pdf"], 2, "--format pdf: unknown"),
        (["compare", "{base}", "{slow}", "--where", "model=none"], 2, "no case matches --where model=none"),
        (["check", "--baseline", "{base}", "{slow}", "--gate", "-5%"], 2, "'-5%' is not a valid gate"),
        (["check", "--baseline", "{base}", "{slow}", "--gates", "{gates}"], 2, "gates.yaml:2: unknown metric 'tppt'"),
        (["check", "--baseline", "{base}", "nowhere"], 2, "no such run"),
        (["table", "nowhere"], 2, "no such run"),
    ],
)
def test_wrong_requests_are_one_line_and_the_right_code(
    runs: tuple[str, str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    code: int,
    message: str,
) -> None:
    gates = tmp_path / "gates.yaml"
    gates.write_text("metrics:\n  tppt: 3%\n", encoding="utf-8")
    filled = [text.format(base=runs[0], slow=runs[1], gates=gates) for text in arguments]
    assert run_main(filled) == code
    captured = capsys.readouterr()
    assert message in captured.err
    assert len(captured.err.strip().splitlines()) == 1
    assert captured.out == ""


def test_damaged_runs_never_pass(runs: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base, new = runs[0], Path(runs[1])
    with (new / "samples.jsonl").open("ab") as file:
        file.write(b'{"type": "sam')
    assert run_main(["check", "--baseline", base, str(new)]) == ExitCode.REGRESSED
    assert "cut off" in capsys.readouterr().out
    edit_json(new / "run.json", schema_version=9)
    assert run_main(["check", "--baseline", base, str(new)]) == ExitCode.BAD_INPUT
    empty = make_run([*PAIR])
    empty.lines = []
    assert run_main(["check", "--baseline", base, str(empty.write(tmp_path / "empty"))]) == ExitCode.NOT_COMPARABLE


def test_every_format_of_compare_holds_every_judgement(
    runs: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def out(kind: str) -> str:
        assert run_main(["compare", *runs, "--format", kind]) == ExitCode.OK
        return capsys.readouterr().out

    rows = list(csv.DictReader(io.StringIO(out("csv"))))
    assert [row["verdict"] for row in rows] == ["unchanged", "unchanged", "regressed", "unchanged"]
    (raw,) = json.loads(out("json"))
    assert raw["verdicts"] == {"unchanged": 3, "regressed": 1}
    assert raw["geometric_means"]["ttft"]["ratio"] == pytest.approx(
        (raw["judgements"][0]["ratio"] * raw["judgements"][2]["ratio"]) ** 0.5
    )
    assert out("markdown").count("| ttft |") == 2
    assert "▲ regressed" in out("terminal")
    assert run_main(["compare", *runs, "--format", "html", "--out", str(tmp_path / "x.html")]) == ExitCode.OK
    assert "1 regressed, 3 unchanged" in (tmp_path / "x.html").read_text(encoding="utf-8")


def test_rows_are_sorted_filtered_grouped_and_columns_picked(
    runs: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--sort", "ratio", "--group", "metric", "--columns", "model,ratio,verdict", "--format", "markdown"]
    assert run_main(["compare", *runs, *options]) == ExitCode.OK
    text = capsys.readouterr().out
    assert text.index("### metric ttft") < text.index("### metric tpot")
    assert "| model | new / base [95 %] | verdict |" in text
    assert text.index("| dec-small |") < text.index("| mu-small |")


def test_arms_of_one_run_are_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arms = [Speed(arm=arm, loads=8, tpot_ms=ms) for arm, ms in (("base", 10), ("head", 11))]
    folder = str(make_run(arms, drift=0.05).write(tmp_path / "run"))
    assert run_main(["compare", folder]) == ExitCode.OK
    assert "head against base: 1 regressed, 1 unchanged" in capsys.readouterr().out
    assert run_main(["check", "--baseline", f"{folder}@base", f"{folder}@head"]) == ExitCode.REGRESSED
    assert run_main(["compare", folder, "--arms", "head,base"]) == ExitCode.OK
    assert "base against head: 1 improved" in capsys.readouterr().out


def test_bencher_format_follows_its_schema(runs: tuple[str, str]) -> None:
    raw = json.loads(bencher_json(read_side(runs[0])))
    jsonschema.validate(raw, BMF_SCHEMA)
    metric = raw[Speed().case.key]["ttft"]
    assert metric["lower_value"] < metric["value"] < metric["upper_value"]
    assert metric["value"] == pytest.approx(100e6, rel=0.05)


def test_github_action_benchmark_format_has_times_and_rates(runs: tuple[str, str]) -> None:
    side = read_side(runs[0])
    times = {entry["name"]: entry for entry in json.loads(github_json(side, bigger=False))}
    rates = {entry["name"]: entry for entry in json.loads(github_json(side, bigger=True))}
    key = Speed().case.key
    assert times[f"{key} tpot"]["unit"] == "ms"
    assert rates[f"{key} decode_tps"]["value"] == pytest.approx(1000 / times[f"{key} tpot"]["value"])
    assert {type(value) for entry in times.values() for value in entry.values()} == {str, float}


def test_a_run_is_printed_for_other_tools(runs: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run_main(["table", runs[0], "--format", "bencher"]) == ExitCode.OK
    jsonschema.validate(json.loads(capsys.readouterr().out), BMF_SCHEMA)
    assert run_main(["table", runs[0], "--format", "github-bigger"]) == ExitCode.OK
    assert {entry["unit"] for entry in json.loads(capsys.readouterr().out)} == {"tokens/s"}
    assert run_main(["table", runs[0], "--format", "xml"]) == ExitCode.BAD_INPUT


def test_junit_counts_regressions_as_failures_and_the_untold_as_errors(comparison: Comparison, tmp_path: Path) -> None:
    root = ElementTree.fromstring(junit_xml([comparison]))
    suite = root[0]
    assert (suite.get("tests"), suite.get("failures"), suite.get("errors")) == ("4", "1", "0")
    assert suite.find("testcase/failure").get("type") == "regressed"  # type: ignore[union-attr]
    few = Speed(loads=2, between=0.3)
    unclear = compare_sides(
        read_side(str(make_run([few], seed=1).write(tmp_path / "a"))),
        read_side(str(make_run([few], seed=2).write(tmp_path / "b"))),
    )
    assert ElementTree.fromstring(junit_xml([unclear]))[0].get("errors") == "2"


def test_summary_and_annotations(comparison: Comparison) -> None:
    summary = job_summary([comparison])
    assert summary.startswith("## slmbench: slow against base: 1 regressed, 3 unchanged")
    assert summary.count("<details>") == summary.count("</details>") == 1
    (line,) = annotation_lines([comparison])
    assert line.startswith("::error title=slmbench%3A regressed::dec-small|")
    assert "gate 5 %25" in line


def test_check_writes_what_other_tools_read(
    runs: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    summary = tmp_path / "summary.md"
    summary.write_text("before\n", encoding="utf-8")
    files = ["--junit", str(tmp_path / "junit.xml"), "--summary", str(summary), "--annotations"]
    assert run_main(["check", "--baseline", *runs, *files]) == ExitCode.REGRESSED
    assert summary.read_text(encoding="utf-8").startswith("before\n## slmbench")
    ElementTree.parse(tmp_path / "junit.xml")
    assert "::error" in capsys.readouterr().out


def test_sampling_on_ends_when_it_can_tell_and_spends_its_alpha(tmp_path: Path) -> None:
    def sides(loads: int) -> list[Side]:
        arms = [Speed(arm="base", loads=loads, between=0.03), Speed(arm="new", loads=loads, ttft_ms=112, between=0.03)]
        return read_sides([str(make_run(arms, seed=loads).write(tmp_path / f"{loads}"))])

    loads = iter([1, 8, 16, 32])
    shares: list[float] = []

    def judge(share: float) -> Comparison:
        shares.append(share)
        return compare_sides(*sides(next(loads)), look=share)

    ended = judge_until_conclusive(judge, Sampler(lambda count, seconds: True, lambda: 1.0), 1e9, say=print)
    assert ended.judgements[0].verdict == "regressed"
    assert shares == [0.5**look for look in range(1, len(shares) + 1)]
    assert len(shares) > 1


def test_sampling_on_ends_where_nothing_more_can_be_had(tmp_path: Path) -> None:
    single = read_side(str(make_run([Speed(loads=1)]).write(tmp_path / "run")))
    looks: list[float] = []

    def judge(share: float) -> Comparison:
        looks.append(share)
        return compare_sides(single, single)

    judge_until_conclusive(judge, Sampler(lambda count, seconds: False, lambda: 1.0), 1e9, say=print)
    assert len(looks) == 1
    looks.clear()
    times, granted = iter([0.0, 1.0, 9.5]), []

    def more_loads(count: int, seconds: float) -> bool:
        granted.append((count, seconds))
        return True

    ended = judge_until_conclusive(judge, Sampler(more_loads, lambda: 1.0), 10.0, say=print, clock=lambda: next(times))
    # Two more loads are what an interval takes; half a second is no time for them.
    assert (looks, granted) == ([0.5, 0.25], [(2, 9.0)])
    assert "not sampled further" in ended.warnings[-1]


def test_no_table_loads_torch_or_an_engine(runs: tuple[str, str]) -> None:
    code = (
        "import sys; from slmbench.cli import run_main; "
        f"run_main(['table', {runs[0]!r}]); "
        f"run_main(['compare', {runs[0]!r}, {runs[1]!r}]); "
        f"run_main(['check', '--baseline', {runs[0]!r}, {runs[1]!r}]); "
        "print(sorted({'torch', 'openvino', 'onnxruntime', 'transformers', 'pandas'} & set(sys.modules)))"
    )
    done = run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().splitlines()[-1] == "[]"


def test_the_cell_says_what_would_have_been_seen_where_the_note_does(tmp_path: Path) -> None:
    """At every look: a verdict of a check that looks several times needs more than the 95 % interval shows."""
    differing = 0
    for seed in range(12):
        arms = [Speed(arm=arm, loads=4, between=0.03, ttft_ms=ms) for arm, ms in (("a", 100.0), ("b", 94.0))]
        pair = read_sides([str(make_run(arms, seed=seed).write(tmp_path / str(seed)))])
        for look in (1.0, 0.5, 0.125):
            found = compare_sides(*pair, look=look)
            rows = {(row["case"], row["metric"]): row for row in rows_of(found)}
            for one in found.judgements:
                cell = next(column for column in COLUMNS if column.header == "verdict").cell(rows[one.key, one.metric])
                noted = one.verdict == "inconclusive" and bool(seen_in([one]))
                assert ("(sees " in cell) == noted, (seed, look, one.metric)
                differing += one.verdict == "inconclusive" and one.excludes_slowdown != (one.ratio.high <= 1 + one.gate)
    assert differing
