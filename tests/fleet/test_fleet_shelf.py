"""A fleet's run read back: machines side by side, before and after, and made again from its samples."""

from __future__ import annotations

import csv
import io
import json
import sys
from pathlib import Path
from subprocess import run
from xml.etree import ElementTree

import pytest
from shelves import Planned, machine, write_fleet
from synthetic import PAIR, Made, Speed, make_run

from slmbench.cli import run_main
from slmbench.errors import ExitCode
from slmbench.records.schema import FailureRecord

pytestmark = pytest.mark.usefixtures("calibrated")


def speeds(factor: float = 1.0, **changes: object) -> list[Speed]:
    """Return a pair whose times are that many times those of :data:`synthetic.PAIR`."""
    return [
        Speed(**{**vars(speed), "ttft_ms": speed.ttft_ms * factor, "tpot_ms": speed.tpot_ms * factor, **changes})
        for speed in PAIR
    ]


def fail_first(made: Made) -> None:
    """Let the first case end with nothing but a failure, and let the second one miss its target."""
    first, second = (info.case.key for info in made.record.cases[:2])
    made.lines = [line for line in made.lines if line.case != first]
    made.lines.append(FailureRecord(case=first, reason="killed", message="out of memory"))
    missed = made.record.outcomes[second].model_copy(update={"converged": {"ttft": False, "tpot": True}})
    made.record = made.record.model_copy(update={"outcomes": {second: missed}})


def shelf(folder: Path, *, laptop: float = 1.0, without: tuple[str, ...] = (), seed: int = 0) -> str:
    """Write a fleet's run of unlike machines, two equal ones, a lost one and one with a stand-in for its NPU."""
    machines = {
        "box": Planned(machine("Box 32"), speeds(0.4), seed=seed + 1),
        "laptop": Planned(machine("Lap 8"), speeds(laptop), seed=seed + 2),
        "laptop-2": Planned(machine("Lap 8", host="other"), speeds(laptop), seed=seed + 3),
        "tablet": Planned(machine("Tab 4"), speeds(3), seed=seed + 4, change=fail_first),
        "snap": Planned(machine("Snap 8"), [*speeds(1.5), *speeds(9, device="npu", simulate=True)], seed=seed + 5),
        "lost": Planned(
            machine("Gone 1"), keys=tuple(s.case.key for s in PAIR), outcome="machine lost: gave no answer: timed out"
        ),
        "idle": Planned(machine("Idle 1"), left_out=("no backend has an NPU",), outcome="cannot run any case"),
    }
    return str(write_fleet(folder, {name: one for name, one in machines.items() if name not in without}))


def printed(capsys: pytest.CaptureFixture[str]) -> str:
    """Return what was printed with its lines joined: where a terminal breaks them is another matter."""
    return " ".join(capsys.readouterr().out.split())


def cells(text: str) -> dict[tuple[str, str, str, str], dict[str, str]]:
    rows = csv.DictReader(io.StringIO(text))
    return {(row["machine"], row["device"], row["model"], row["metric"]): row for row in rows}


def test_every_machine_has_a_cell_with_its_own_figure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_main(["compare", shelf(tmp_path), "--format", "csv"]) == ExitCode.OK
    found = cells(capsys.readouterr().out)
    assert {key[0] for key in found} == {"box", "laptop", "laptop-2", "tablet", "snap", "lost"}
    for name, factor in (("box", 0.4), ("laptop", 1.0), ("laptop-2", 1.0), ("snap", 1.5)):
        assert float(found[name, "cpu", "dec-small", "ttft"]["value"]) == pytest.approx(0.1 * factor, rel=0.05)
    assert (
        found["laptop", "cpu", "dec-small", "ttft"]["value"] != found["laptop-2", "cpu", "dec-small", "ttft"]["value"]
    )
    assert found["laptop", "cpu", "dec-small", "ttft"]["equal_machines"] == "laptop laptop-2"
    assert found["tablet", "cpu", "mu-small", "ttft"]["state"] == "failed: killed"
    assert found["tablet", "cpu", "mu-small", "ttft"]["value"] == ""
    assert found["tablet", "cpu", "dec-small", "ttft"]["state"] == "not converged"
    assert found["tablet", "cpu", "dec-small", "tpot"]["state"] == ""
    assert found["lost", "cpu", "mu-small", "ttft"]["state"] == "not run"
    # A stand-in's times are no times.
    assert not any(device == "npu" for _, device, _, _ in found)
    assert [key for key, row in found.items() if row["rank"] == "best"] == [
        ("box", "cpu", "mu-small", "ttft"),
        ("box", "cpu", "mu-small", "tpot"),
    ]


def test_the_figures_are_those_of_each_machines_own_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = shelf(tmp_path)
    run_main(["compare", folder, "--format", "csv"])
    found = cells(capsys.readouterr().out)
    assert run_main(["table", folder, "--json"]) == ExitCode.OK
    rows = [row for row in json.loads(capsys.readouterr().out) if row["ttft_s"] is not None]
    assert len(rows) == 9
    for row in rows:
        cell = found[row["machine"], row["device"], row["model"], "ttft"]
        for mine, theirs in (("value", "ttft_s"), ("value_low", "ttft_s_low"), ("value_high", "ttft_s_high")):
            assert float(cell[mine]) == pytest.approx(row[theirs], rel=1e-6)


def test_the_terminal_says_what_is_best_and_what_is_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert run_main(["compare", shelf(tmp_path)]) == ExitCode.OK
    text = capsys.readouterr().out
    said_first = "First token: best on box cpu in 2 of 2 models and tasks that several devices ran Decoding: best"
    assert " ".join(text.split()).startswith(said_first)
    assert max(map(len, text.splitlines())) <= 80
    flat = " ".join(text.split())
    assert "Best: mu-small fp32 on box cpu, " in flat
    assert "next: dec-small fp32 on box cpu, 1.9" in flat
    assert "(round by round)" in flat
    for said in (
        "laptop, laptop-2 (equal): Lap 8",
        "not finished on lost: machine lost: gave no answer: timed out",
        "left out on idle: no backend has an NPU",
        "left out: snap npu: 2 simulated cases",
        "failed on tablet: mu-small|",
        "Nothing to judge on lost cpu, tablet cpu",
        "failed: killed",
        "not converged",
        "not run",
    ):
        assert said in flat
    # Every machine is there although five do not fit next to each other.
    for name in ("box", "laptop", "laptop-2", "snap", "tablet", "lost"):
        assert name in text


def test_pairs_are_judged_on_each_machine(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_main(["compare", shelf(tmp_path), "--format", "json"]) == ExitCode.OK
    raw = json.loads(capsys.readouterr().out)
    found = {(row["machine"], row["metric"]): row for row in raw["pairs"]}
    assert {name for name, _ in found} == {"box", "laptop", "laptop-2", "snap"}
    for name in ("box", "laptop", "laptop-2", "snap"):
        assert found[name, "ttft"]["speedup"] == pytest.approx(100 / 52, rel=0.05)
        assert found[name, "ttft"]["verdict"] == "sooner"
        assert found[name, "tpot"]["against"] == "SDPA"
    (best,) = [one for one in raw["best"] if one["metric"] == "ttft" and one["scope"] == "shelf"]
    assert best["told_apart"]
    assert best["leader"]["machine"] == "box"
    assert best["next"]["paired"]
    assert raw["machines"][1]["equal"] == ["laptop", "laptop-2"]


@pytest.mark.parametrize("kind", ["markdown", "html"])
def test_the_other_formats_hold_the_matrix(tmp_path: Path, kind: str) -> None:
    out = tmp_path / "out"
    assert run_main(["compare", shelf(tmp_path), "--format", kind, "--out", str(out)]) == ExitCode.OK
    text = out.read_text(encoding="utf-8")
    for said in ("box", "laptop-2", "failed: killed", "not converged", "not run", "sooner", "timed out"):
        assert said in text


def test_machines_and_cases_are_chosen(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chosen = ["--where", "machine!=laptop*", "--where", "model=mu-*", "--metric", "e2e", "--format", "csv"]
    assert run_main(["compare", shelf(tmp_path), *chosen]) == ExitCode.OK
    found = cells(capsys.readouterr().out)
    assert {(name, model, metric) for name, _, model, metric in found} == {
        (name, "mu-small", "e2e") for name in ("box", "snap", "tablet")
    }


def test_a_machine_with_several_runs_is_one_column(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mine, theirs = speeds(), speeds(2, input_tokens=64)
    one = Planned(machine(), mine, more=[theirs, [Speed(**{**vars(mine[0]), "loads": 3, "ttft_ms": 1.0})]])
    assert run_main(["compare", str(write_fleet(tmp_path, {"one": one})), "--format", "csv"]) == ExitCode.OK
    found = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert {(row["task"], row["model"]) for row in found} == {
        (f"{length} in / 32 out", name) for length in (64, 512) for name in ("mu-small", "dec-small")
    }
    # Of a case that was measured twice the run with more loads is shown, not the faster one.
    (again,) = [r for r in found if r["task"].startswith("512") and r["model"] == "mu-small" and r["metric"] == "ttft"]
    assert float(again["value"]) == pytest.approx(0.052, rel=0.05)


def test_a_fleets_tables_are_made_again_from_its_samples(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "shelf"
    folder.mkdir()
    name = shelf(folder)
    assert run_main(["table", name, "--write"]) == ExitCode.OK
    assert "The machines side by side" in printed(capsys)
    for file in ("table.csv", "table.md", "report.html"):
        assert (folder / file).stat().st_size > 1000
    assert "| box cpu | laptop laptop-2 cpu |" in (folder / "table.md").read_text(encoding="utf-8")
    assert run_main(["table", name, "--markdown"]) == ExitCode.OK
    assert capsys.readouterr().out == (folder / "table.md").read_text(encoding="utf-8")


def test_the_tables_of_parts_are_named_and_of_many_machines_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = Planned(machine(), [PAIR[0]], more=[[PAIR[1]]])
    assert run_main(["table", str(write_fleet(_made(tmp_path / "few"), {"one": one}))]) == ExitCode.OK
    text = capsys.readouterr().out
    assert "\none, part 1\n" in text
    assert "\none, part 2\n" in text
    many = {f"m{number}": Planned(machine(), [PAIR[0]], seed=number) for number in range(9)}
    assert run_main(["table", str(write_fleet(_made(tmp_path / "many"), many))]) == ExitCode.OK
    text = printed(capsys)
    assert text.startswith("9 tables are not shown")
    assert "loads" not in text.partition("side by side")[0]


def test_a_fleet_that_measured_nothing_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keys = tuple(speed.case.key for speed in PAIR)
    name = str(write_fleet(_made(tmp_path / "a"), {"one": Planned(machine(), keys=keys, outcome="out of memory")}))
    assert run_main(["compare", name]) == ExitCode.NOT_COMPARABLE
    assert "not finished on one: out of memory" in capsys.readouterr().err
    assert run_main(["table", name, "--write"]) == ExitCode.OK
    assert "out of memory" in capsys.readouterr().out
    assert not (tmp_path / "a" / "report.html").exists()


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def test_before_and_after_is_judged_machine_by_machine(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    few = ("lost", "idle", "snap", "tablet")
    old = shelf(_made(tmp_path / "old"), without=few, seed=10)
    new = shelf(_made(tmp_path / "new"), without=few, laptop=1.3, seed=20)
    assert run_main(["compare", old, new]) == ExitCode.OK
    text = printed(capsys)
    assert "new/laptop against old/laptop: 4 regressed" in text
    assert "new/box against old/box: 4 unchanged" in text
    assert run_main(["check", "--baseline", old, new]) == ExitCode.REGRESSED
    text = printed(capsys)
    assert "check passed: new/box" in text
    assert text.endswith("check of 3 machines: REGRESSED (new/laptop, new/laptop-2)")
    assert run_main(["check", "--baseline", old, old]) == ExitCode.OK
    assert run_main(["compare", old, new, "--format", "html", "--out", str(tmp_path / "x.html")]) == ExitCode.OK
    assert "old/laptop-2" in (tmp_path / "x.html").read_text(encoding="utf-8")


def test_advice_on_a_fleet_can_be_followed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No loads are added to the machines of a fleet from here, so no option is named that would."""
    old = write_fleet(_made(tmp_path / "old"), {"box": Planned(machine("Box 32"), speeds(), seed=1)})
    new = write_fleet(_made(tmp_path / "new"), {"box": Planned(machine("Box 32"), speeds(loads=1), seed=2)})
    files = ["--junit", str(tmp_path / "junit.xml"), "--summary", str(tmp_path / "summary.md")]
    assert run_main(["check", "--baseline", str(old), str(new), *files]) == ExitCode.INCONCLUSIVE
    texts = [printed(capsys), *(Path(name).read_text(encoding="utf-8") for name in files[1::2])]
    assert run_main(["compare", str(old), str(new)]) == ExitCode.OK
    for text in (*texts, printed(capsys)):
        assert "one load of the new side" in text
        assert "measure the new side again, with more loads" in text
        assert "until-conclusive" not in text


def test_a_machine_missing_on_one_side_is_not_comparable_and_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few = ("lost", "idle", "snap", "tablet")
    old = shelf(_made(tmp_path / "old"), without=few, seed=10)
    new = shelf(_made(tmp_path / "new"), without=("box", *few), seed=10)
    files = ["--junit", str(tmp_path / "junit.xml"), "--annotations"]
    for base, other, label in ((old, new, "new"), (new, old, "new")):
        assert run_main(["check", "--baseline", base, other, *files]) == ExitCode.NOT_COMPARABLE
        assert f"machine box: is in old and not in {label}" in printed(capsys)
        assert "machine box" in ElementTree.parse(tmp_path / "junit.xml").getroot().findall("testsuite")[-1][0].get(
            "name", ""
        )
    assert run_main(["check", "--baseline", old, new, "--json"]) == ExitCode.NOT_COMPARABLE
    reasons = [one["unjudged"] for one in json.loads(capsys.readouterr().out) if not one["judged"]]
    assert reasons == ["machine box: is in old and not in new"]
    assert run_main(["check", "--baseline", old, new, "--allow-missing"]) == ExitCode.OK
    # A regression elsewhere is worse.
    slow = shelf(_made(tmp_path / "slow"), without=("box", *few), laptop=1.3, seed=20)
    assert run_main(["check", "--baseline", old, slow]) == ExitCode.REGRESSED
    assert "check NOT COMPARABLE: machine box: is in old and not in slow" in printed(capsys)


def test_a_machine_that_was_rebuilt_or_fell_silent_never_passes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def fleet(name: str, one: Planned) -> str:
        return str(write_fleet(_made(tmp_path / name), {"one": one, "two": Planned(machine("Two"), speeds(), seed=9)}))

    old = fleet("old", Planned(machine("First"), speeds()))
    other = fleet("other", Planned(machine("Second"), speeds()))
    assert run_main(["check", "--baseline", old, other]) == ExitCode.NOT_COMPARABLE
    assert "cpu_model: First / Second" in printed(capsys)
    silent = fleet("silent", Planned(machine("First"), left_out=("no engine",), outcome="cannot run any case"))
    assert run_main(["check", "--baseline", old, silent]) == ExitCode.NOT_COMPARABLE
    assert "machine one: measured nothing in silent: cannot run any case" in printed(capsys)
    keys = tuple(speed.case.key for speed in PAIR)
    lost = fleet("lost", Planned(machine("First"), keys=keys, outcome="machine one: gave no answer"))
    assert run_main(["check", "--baseline", lost, lost]) == ExitCode.NOT_COMPARABLE
    assert "machine one: measured nothing in lost (1): gave no answer" in printed(capsys)
    failed = fleet("failed", Planned(machine("First"), speeds(), change=fail_first))
    assert run_main(["check", "--baseline", old, failed]) == ExitCode.FAILED


def test_a_case_that_moved_to_an_equal_machine_is_judged_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def fleet(name: str, seed: int, **shares: list[Speed]) -> str:
        machines = {key: Planned(machine("First"), mine, seed=seed) for key, mine in shares.items()}
        return str(write_fleet(_made(tmp_path / name), machines))

    first, second = speeds()
    old = fleet("old", 0, one=[first], two=[second])
    swapped = fleet("swapped", 20, one=[second], two=[first])
    assert run_main(["check", "--baseline", old, swapped]) == ExitCode.OK
    text = printed(capsys)
    assert f"{first.case.key}: was measured on one, and now on an equal machine, two" in text
    assert "only in" not in text
    renamed = fleet("renamed", 30, three=[first, second])
    assert run_main(["check", "--baseline", old, renamed]) == ExitCode.OK
    slow = fleet("slow", 40, two=[*speeds(1.3)])
    assert run_main(["check", "--baseline", old, slow]) == ExitCode.REGRESSED
    half = fleet("half", 50, two=[second])
    assert run_main(["check", "--baseline", old, half]) != ExitCode.OK


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["compare", "{fleet}", "{run}"], 2, "--by-machine groups it with those of other machines"),
        (["compare", "{fleet}", "{fleet}", "{run}"], 2, "--by-machine groups them"),
        (["compare", "{fleet}", "--sort", "ratio"], 2, "--sort: not supported when machines are compared"),
        (["compare", "{fleet}", "--where", "machine=none"], 3, "nothing was measured"),
        (["compare", "{fleet}", "--where", "maschine=x"], 2, "unknown field 'maschine'"),
        (["compare", "{fleet}", "--metric", "tftt"], 2, "unknown metric 'tftt'"),
        (["compare", "{fleet}", "--format", "pdf"], 2, "--format pdf: unknown"),
        (["check", "--baseline", "{fleet}", "{run}"], 2, "is not a fleet's run"),
        (["check", "--baseline", "{fleet}", "{fleet}", "--until-conclusive"], 2, "samples cannot be added"),
        (["check", "--baseline", "{fleet}"], 2, "is a fleet's run; name one machine's"),
        (["baseline", "save", "{fleet}", "{fleet}/b.json"], 2, "is a fleet's run; name one machine's"),
        (["table", "{fleet}", "--format", "bencher"], 2, "work on the run of one machine"),
        (["compare", "{broken}"], 2, "not a fleet run"),
    ],
)
def test_wrong_requests_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, message: str
) -> None:
    fleet = shelf(_made(tmp_path / "fleet"), without=("lost", "idle", "snap", "tablet"))
    plain = str(make_run([*PAIR]).write(tmp_path / "run"))
    (_made(tmp_path / "broken") / "fleet.json").write_text("{", encoding="utf-8")
    broken = str(tmp_path / "broken")
    assert run_main([text.format(fleet=fleet, run=plain, broken=broken) for text in arguments]) == code
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.out == ""


def test_a_fleet_is_read_without_dask_torch_or_engines(tmp_path: Path) -> None:
    name = shelf(tmp_path)
    code = (
        "import sys; sys.modules['distributed'] = None; sys.modules['dask'] = None\n"
        "from slmbench.cli import run_main\n"
        f"assert run_main(['compare', {name!r}]) == 0\n"
        f"assert run_main(['check', '--baseline', {name!r}, {name!r}, '--where', 'model=dec*']) == 3\n"
        "print(sorted({'torch', 'openvino', 'onnxruntime', 'transformers', 'pandas'} & set(sys.modules)))\n"
        f"assert run_main(['table', {name!r}]) == 0\n"
    )
    done = run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "\n[]\n" in done.stdout
