"""What a check leaves for GitHub: a summary and annotations of a size that it shows, and why nothing was judged."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
from synthetic import MACHINE, Speed, calibrate, floor_of, make_run

from slmbench.analysis.metrics import Side
from slmbench.analysis.sides import read_side
from slmbench.analysis.verdicts import compare_sides
from slmbench.cli import run_main
from slmbench.errors import ExitCode
from slmbench.records.without_folders import without_folders
from slmbench.report.github import MOST_SUMMARY_BYTES, annotation_lines, job_summary
from slmbench.report.text_table import markdown_sentence

pytestmark = pytest.mark.usefixtures("calibrated")


@pytest.fixture
def runs(tmp_path: Path) -> tuple[str, str]:
    """A base run, and one that takes 10 % longer to the first token."""
    base, slow = [Speed(loads=10)], [Speed(loads=10, ttft_ms=110)]
    return str(make_run(base, seed=1).write(tmp_path / "base")), str(make_run(slow, seed=2).write(tmp_path / "slow"))


@pytest.mark.slow
def test_what_github_would_drop_is_cut_at_a_row_and_counted(tmp_path: Path) -> None:
    def of(name: str, ttft_ms: float) -> Side:
        speeds = [Speed(model=f"model-{n}", loads=3, rounds=1, output_tokens=4, ttft_ms=ttft_ms) for n in range(3600)]
        return read_side(str(make_run(speeds, seed=int(ttft_ms)).write(tmp_path / name)))

    base = of("a", 100)
    found = compare_sides(base, of("b", 150), floor=floor_of(base.cases))
    summary = job_summary([found])
    assert MOST_SUMMARY_BYTES * 0.9 < len(summary.encode()) <= MOST_SUMMARY_BYTES
    assert summary.count("<details>") == summary.count("</details>") == 1
    whole = job_summary([found], room_bytes=10**9).splitlines()
    for text in (summary, cut := job_summary([found], room_bytes=200_000)):
        shown = [line for line in text.splitlines() if line.startswith(("| ", "- "))]
        assert set(shown) <= set(whole)
        (said,) = re.findall(r"\*\*([\d,]+) rows and notes are left out here", text)
        assert len([one for one in whole if one.startswith(("| ", "- "))]) == len(shown) + int(said.replace(",", ""))
    assert len(cut.encode()) <= 200_000
    *worst, count = annotation_lines([found])
    assert len(worst) == 10
    assert re.match(r"::notice title=slmbench::and [\d,]+ more: .*; the job summary lists them$", count)
    ratios = [float(re.findall(r"is ([\d.]+)x", line)[0]) for line in worst]
    assert ratios == sorted(ratios, reverse=True)


@pytest.mark.parametrize("earlier", [b"", b"# Mine\n", b"\xff\xfe not UTF-8"], ids=["new", "text", "bytes"])
def test_a_summary_is_appended_to_whatever_is_there(runs: tuple[str, str], tmp_path: Path, earlier: bytes) -> None:
    summary = tmp_path / "summary.md"
    summary.write_bytes(earlier)
    inode = summary.stat().st_ino
    for _ in range(2):
        assert run_main(["check", "--baseline", runs[0], runs[1], "--summary", str(summary)]) == ExitCode.REGRESSED
    written = summary.read_bytes()
    assert written.startswith(earlier)
    assert written.count(b"\n## slmbench: slow against base") + (not earlier) == 2
    assert summary.stat().st_ino == inode


def test_checks_at_the_same_time_share_a_summary(
    runs: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLMBENCH_CACHE", str(tmp_path / "cache"))
    calibrate(Path(runs[0]))
    summary = tmp_path / "summary.md"
    command = [sys.executable, "-m", "slmbench", "check", "--baseline", *runs, "--summary", str(summary)]
    together = [subprocess.Popen(command, stdout=subprocess.DEVNULL) for _ in range(4)]
    assert [one.wait() for one in together] == [ExitCode.REGRESSED] * 4
    text = summary.read_text(encoding="utf-8")
    assert text.count("## slmbench: slow against base") == text.count("</details>") == 4


@pytest.mark.parametrize(
    ("arguments", "code", "kind"),
    [
        (["--baseline", "{base}", "nowhere"], ExitCode.BAD_INPUT, "bad input"),
        (["--baseline", "{base}", "{log}x"], ExitCode.BAD_INPUT, "bad input"),
        (["--baseline", "{base}", "{new}", "--metric", "speed"], ExitCode.BAD_INPUT, "bad input"),
        (["--baseline", "{base}", "{other}"], ExitCode.NOT_COMPARABLE, "not comparable"),
        (["--baseline", "{base}", "{new}", "--not-measured", "{log}"], ExitCode.FAILED, "failed"),
    ],
)
def test_a_check_that_cannot_judge_says_why_everywhere(
    runs: tuple[str, str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    code: ExitCode,
    kind: str,
) -> None:
    machine = {**MACHINE, "hardware": {**MACHINE["hardware"], "cpu_model": "Other 1"}}
    other = make_run([Speed()], machine=machine).write(tmp_path / "other")
    (tmp_path / "log").write_text("exporting\nslmbench: error: no such model 'x'\n")
    named = {"base": runs[0], "new": runs[1], "other": other, "log": tmp_path / "log"}
    junit, summary = tmp_path / "junit.xml", tmp_path / "summary.md"
    junit.write_text("<testsuites>of yesterday</testsuites>")
    outputs = ["--junit", str(junit), "--summary", str(summary), "--annotations"]
    assert run_main(["check", *(one.format(**named) for one in arguments), *outputs]) == code
    printed = capsys.readouterr()
    (line,) = printed.err.splitlines()
    reason = without_folders(line.removeprefix("slmbench: error: "))
    assert str(tmp_path) not in reason
    assert f"::error title=slmbench%3A {kind}::{reason.replace('%', '%25')}\n" == printed.out
    error = ElementTree.fromstring(junit.read_text()).find("testsuite/testcase/error")
    assert error is not None
    assert (error.get("type"), error.get("message")) == (kind, reason)
    assert summary.read_text(encoding="utf-8") == f"## slmbench: {kind}\n\n{markdown_sentence(reason)}\n"
    if kind == "failed":
        assert reason.endswith("slmbench run failed: no such model 'x'")


@pytest.mark.parametrize("other", [False, True], ids=["regressed", "not comparable"])
def test_annotations_of_json_are_on_stderr(
    runs: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str], other: bool
) -> None:
    new = runs[1]
    if other:
        machine = {**MACHINE, "hardware": {**MACHINE["hardware"], "cpu_model": "Other 1"}}
        new = str(make_run([Speed()], machine=machine).write(tmp_path / "other"))
    code = ExitCode.NOT_COMPARABLE if other else ExitCode.REGRESSED
    assert run_main(["check", "--baseline", runs[0], new, "--annotations", "--json"]) == code
    captured = capsys.readouterr()
    json.loads(captured.out)
    (line,) = [line for line in captured.err.splitlines() if line.startswith("::error title=slmbench%3A ")]
    assert ("cpu_model" if other else "ttft is 1.") in line
    assert run_main(["check", "--baseline", runs[0], new, "--annotations"]) == code
    assert line in capsys.readouterr().out.splitlines()
    # Where all is well there is nothing to print, not even an empty line.
    assert run_main(["check", "--baseline", runs[0], runs[0], "--annotations", "--json"]) == ExitCode.OK
    assert capsys.readouterr().err == ""
