"""No gate vanishes: what a side lacks or failed on both is reported everywhere, and is no pass unless allowed."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from synthetic import PAIR, Made, make_run

from slmbench.cli import run_main
from slmbench.errors import ExitCode
from slmbench.records.schema import FailureRecord, SampleRecord

pytestmark = pytest.mark.usefixtures("calibrated")

STEADY = [replace(speed, loads=10) for speed in PAIR]
ENCODER, DECODER = (speed.case.key for speed in STEADY)


def with_energy(made: Made, *keys: str) -> Made:
    made.lines = [
        line.model_copy(update={"energy_j": 0.5 + line.round / 1000})
        if isinstance(line, SampleRecord) and line.case in keys
        else line
        for line in made.lines
    ]
    return made


def failing(made: Made, key: str, message: str = "agreement 0.5") -> Made:
    made.lines = [line for line in made.lines if line.case != key]
    made.lines.append(FailureRecord(case=key, reason="wrong tokens", message=message))
    return made


class Checked:
    """A check as typed, with everything that it wrote."""

    def __init__(self, tmp_path: Path, capsys: pytest.CaptureFixture[str], base: Path, new: Path, *more: str) -> None:
        junit, summary = tmp_path / "junit.xml", tmp_path / "summary.md"
        summary.unlink(missing_ok=True)
        # Wide: without calibration, separate runs are not judged at a narrow gate.
        command = ["check", "--baseline", str(base), str(new), "--gate", "30%", *more]
        self.code = run_main([*command, "--junit", str(junit), "--summary", str(summary), "--annotations"])
        self.screen = capsys.readouterr().out
        self.junit = ElementTree.parse(junit).getroot()
        self.summary = summary.read_text(encoding="utf-8")
        assert run_main([*command, "--json"]) == self.code
        (self.json,) = json.loads(capsys.readouterr().out)

    def left(self) -> list[tuple[str, str]]:
        """Return what was not judged, which every output must agree on."""
        rows = [row for row in self.json["judgements"] if row["verdict"] == "not judged"]
        found = sorted((row["case"], row["metric"]) for row in rows)
        in_junit = self.junit.iterfind("testsuite/testcase")
        named = [(test.get("classname"), test.get("name")) for test in in_junit if _type(test) == "not judged"]
        assert sorted(named, key=str) == found
        assert self.json["verdicts"].get("not judged", 0) == len(found)
        assert self.screen.count("::warning title=slmbench%3A not judged::") == len(found)
        assert self.summary.count("| not judged |") == len(found)
        assert self.screen.count("· not judged") == len(found)
        return found


def _type(test: ElementTree.Element) -> str | None:
    error = test.find("error")
    return None if error is None else error.get("type")


@pytest.fixture(autouse=True)
def _wide_screen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "400")


@pytest.mark.parametrize("lacking", ["base", "new", "baseline file", "neither has it", "by a gates file"])
def test_a_metric_that_a_side_lacks_is_not_judged_and_no_pass(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], lacking: str
) -> None:
    base, new = make_run(STEADY, seed=1), make_run(STEADY, seed=1, run_id="other")
    if lacking != "neither has it":
        with_energy(new if lacking == "base" else base, ENCODER, DECODER)
    before, after = base.write(tmp_path / "base"), new.write(tmp_path / "new")
    if lacking == "baseline file":
        assert run_main(["baseline", "save", str(before), str(tmp_path / "base.json")]) == ExitCode.OK
        before = tmp_path / "base.json"
    options = ["--metric", "ttft", "--metric", "energy"]
    if lacking == "by a gates file":
        (tmp_path / "gates.yaml").write_text("metrics:\n  energy: 30%\n", encoding="utf-8")
        options = ["--gates", str(tmp_path / "gates.yaml")]
    checked = Checked(tmp_path, capsys, before, after, *options)
    assert checked.left() == sorted([(ENCODER, "energy"), (DECODER, "energy")])
    assert checked.code == ExitCode.INCONCLUSIVE
    assert "gates not judged: 2 (--allow-missing accepts that)" in checked.screen
    assert "use --until-conclusive" not in checked.screen
    allowed = Checked(tmp_path, capsys, before, after, *options, "--allow-missing")
    assert allowed.left() == checked.left()
    assert allowed.code == ExitCode.OK


def test_a_case_that_lacks_a_metric_among_others_that_have_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = with_energy(make_run(STEADY, seed=1), ENCODER, DECODER).write(tmp_path / "base")
    new = with_energy(make_run(STEADY, seed=1, run_id="other"), DECODER).write(tmp_path / "new")
    checked = Checked(tmp_path, capsys, base, new, "--metric", "energy")
    assert checked.left() == [(ENCODER, "energy")]
    (row,) = (row for row in checked.json["judgements"] if row["verdict"] == "not judged")
    assert row["reason"] == "new has no energy of this case"
    assert row["ratio"] is None


def test_a_metric_that_a_case_cannot_have_is_no_gate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base, new = make_run(STEADY).write(tmp_path / "base"), make_run(STEADY, run_id="other").write(tmp_path / "new")
    checked = Checked(tmp_path, capsys, base, new, "--metric", "encode", "--metric", "ttft")
    assert checked.left() == []
    assert checked.code == ExitCode.OK
    one = [replace(STEADY[1], output_tokens=1)]
    short, again = make_run(one).write(tmp_path / "one"), make_run(one, run_id="x").write(tmp_path / "two")
    assert run_main(["check", "--baseline", str(short), str(again), "--gate", "30%"]) == ExitCode.OK
    # By name, a gate that fits nothing at all is said: here no model has an encoder.
    assert "not judged" not in capsys.readouterr().out
    asked = ["check", "--baseline", str(short), str(again), "--gate", "30%", "--metric", "encode", "--metric", "ttft"]
    assert run_main(asked) == ExitCode.INCONCLUSIVE
    assert "neither side has encode of this case" in capsys.readouterr().out


def test_failed_on_both_sides_is_no_pass_without_a_word(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = failing(make_run(STEADY), ENCODER).write(tmp_path / "base")
    new = failing(make_run(STEADY, run_id="other"), ENCODER, "agreement 0.25").write(tmp_path / "new")
    checked = Checked(tmp_path, capsys, base, new)
    assert checked.left() == [(ENCODER, "tpot"), (ENCODER, "ttft")]
    assert checked.code == ExitCode.INCONCLUSIVE
    assert "failed on both sides: wrong tokens: agreement 0.5; now: wrong tokens: agreement 0.25" in checked.screen
    assert Checked(tmp_path, capsys, base, new, "--allow-missing").code == ExitCode.OK
    fixed = make_run(STEADY, run_id="fixed").write(tmp_path / "fixed")
    assert "base has no ttft of this case: wrong tokens" in Checked(tmp_path, capsys, base, fixed).summary
    only = ["check", "--baseline", str(base), str(new), "--where", "family=encoder*"]
    assert run_main(only) == ExitCode.NOT_COMPARABLE
    assert "no figures to compare" in capsys.readouterr().err


def test_every_format_of_compare_holds_what_was_not_judged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = with_energy(make_run(STEADY, seed=1), ENCODER, DECODER).write(tmp_path / "base")
    new = make_run(STEADY, seed=2).write(tmp_path / "new")

    def out(*more: str) -> str:
        assert run_main(["compare", str(base), str(new), "--metric", "ttft", "--metric", "energy", *more]) == 0
        return capsys.readouterr().out

    rows = list(csv.DictReader(io.StringIO(out("--format", "csv"))))
    assert [(r["verdict"], r["ratio"]) for r in rows if r["metric"] == "energy"] == [("not judged", "")] * 2
    for order in ("ratio", "p", "verdict", "metric"):
        assert out("--format", "markdown", "--sort", order).count("| · not judged |") == 2
    page = tmp_path / "page.html"
    out("--format", "html", "--out", str(page))
    assert "new has no energy of this case" in page.read_text(encoding="utf-8")


def test_what_is_missing_burns_no_budget(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []
    monkeypatch.setattr("slmbench.running.more_samples.execute_watched", asked.append)
    base = with_energy(make_run(STEADY), DECODER).write(tmp_path / "base")
    new = make_run(STEADY[1:], run_id="other").write(tmp_path / "new")
    command = ["check", "--baseline", str(base), str(new), "--gate", "30%", "--metric", "ttft", "--metric", "energy"]
    for more, code in ([], ExitCode.INCONCLUSIVE), (["--allow-missing"], ExitCode.OK):
        assert run_main([*command, "--until-conclusive", "--budget", "600", *more]) == code
        assert asked == []
    assert "gates not judged: 1 (--allow-missing accepts that)" in capsys.readouterr().out


def test_a_missing_case_comes_with_the_nearest_ones(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    renamed = [STEADY[0], replace(STEADY[1], input_tokens=513)]
    base, new = make_run(STEADY).write(tmp_path / "base"), make_run(renamed, run_id="x").write(tmp_path / "new")
    checked = Checked(tmp_path, capsys, base, new)
    assert checked.code == ExitCode.INCONCLUSIVE
    hint = f"Did you mean {renamed[1].case.key}?"
    (error,) = checked.junit.iterfind("testsuite/testcase/error")
    assert hint in str(error.get("message"))
    assert f"only in base: {DECODER}. {hint}" in " ".join(checked.screen.split())
    assert f"::warning title=slmbench%3A not measured::{DECODER}. {hint}" in checked.screen
    assert hint.replace("|", "\\|") in checked.summary
    one = make_run(renamed[1:]).write(tmp_path / "one")
    assert run_main(["check", "--baseline", str(base), str(one), "--where", "model=dec-*"]) == ExitCode.NOT_COMPARABLE
    told = "no case in common. The two most alike differ in input tokens (512 in base, 513 in one)"
    assert told in capsys.readouterr().err


def test_the_nearest_are_looked_up_for_the_first_missing_cases_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few = [replace(STEADY[1], input_tokens=length, loads=2, rounds=1, output_tokens=2) for length in range(64, 164)]
    other = [few[0], *(replace(speed, backend="onnxruntime") for speed in few[1:])]
    base, new = make_run(few).write(tmp_path / "base"), make_run(other, run_id="x").write(tmp_path / "new")
    assert run_main(["check", "--baseline", str(base), str(new)]) == ExitCode.INCONCLUSIVE
    screen = " ".join(capsys.readouterr().out.split())
    assert (screen.count("only in base: "), screen.count("Did you mean"), screen.count("91 more")) == (6, 5, 1)
