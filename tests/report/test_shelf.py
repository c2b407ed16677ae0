"""Machines side by side: what is best, what is not distinguishable, and that no order of anything changes a figure."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic import MACHINE, PAIR, Speed, edit_json, make_run

from slmbench.analysis.best import Best
from slmbench.analysis.machines import Matrix, Shelf, Stand, shelf_of
from slmbench.analysis.metrics import Side, side_of
from slmbench.cli import run_main
from slmbench.errors import ExitCode
from slmbench.records.sample_arrays import columns_of, read_columns
from slmbench.records.schema import FailureRecord, read_run
from slmbench.report.machines_formats import shelf_json, shelf_page
from slmbench.report.machines_sentences import headlines
from slmbench.report.machines_table import matrix_table, shelf_markdown

HOSTILE = "</script><img src=x onerror=alert(1)>"


def machine(cpu: str) -> dict[str, Any]:
    return {**MACHINE, "hardware": {**MACHINE["hardware"], "cpu_model": cpu}}


def stand(folder: Path, name: str, speeds: Sequence[Speed], *, cpu: str = "One", seed: int = 0) -> Stand:
    made = make_run(speeds, seed=seed, machine=machine(cpu), run_id=f"{name}-{seed}").write(folder / f"{name}-{seed}")
    return Stand(name, side_of(read_columns(made), name, may_be_empty=True))


def first(shelf: Shelf) -> Matrix:
    return shelf.matrices[0]


def best(shelf: Shelf) -> Best:
    found = first(shelf).best
    assert found is not None
    return found


def test_machines_that_are_near_each_other_have_no_winner(tmp_path: Path) -> None:
    def at(ms: float, between: float = 0.015) -> Shelf:
        one = stand(tmp_path / str(ms), "one", [Speed(between=between)], cpu="One", seed=1)
        two = stand(tmp_path / str(ms), "two", [Speed(ttft_ms=ms, between=between)], cpu="Two", seed=2)
        return shelf_of([one, two])

    assert best(at(130)).alone
    assert best(at(130)).leader.machine == "one"
    assert not best(at(101)).alone
    # Apart by their intervals, and yet no further than two runs of one machine may be.
    near = best(at(104.5, between=0.001))
    assert near.ties
    low, high = (near.ties[0].entry.interval, near.leader.interval)
    assert low is not None
    assert high is not None
    assert high.high < low.low
    assert "less than 5% apart" in matrix_table(first(at(104.5, between=0.001))).notes[0]


def test_within_a_run_the_paired_ratio_decides(tmp_path: Path) -> None:
    """Drift that both share makes intervals overlap; round by round they are apart."""
    speeds = [Speed(model="a", ttft_ms=100, between=0.002), Speed(model="b", ttft_ms=104, between=0.002)]
    made = make_run(speeds, seed=3, drift=0.08)
    side = side_of(read_columns(made.write(tmp_path / "run")), "run")
    shelf = shelf_of([Stand("one", side)])
    leader, runner_up = best(shelf).leader, best(shelf).runner_up
    assert runner_up is not None
    assert (leader.row.checkpoint, runner_up.entry.row.checkpoint, runner_up.paired) == ("a", "b", True)
    assert leader.interval is not None
    assert runner_up.entry.interval is not None
    assert leader.interval.high > runner_up.entry.interval.low
    assert runner_up.ratio.low > 1


def test_false_winners_are_rare(tmp_path: Path) -> None:
    """Two equal models in one run: called apart in at most about one of twenty."""
    speeds = [Speed(model=name, rounds=2, output_tokens=4) for name in ("a", "b")]
    alone = 0
    for seed in range(60):
        side = side_of(columns_of(read_run(make_run(speeds, seed=seed).write(tmp_path / str(seed)))), "run")
        alone += best(shelf_of([Stand("one", side)], ["ttft"])).alone
    assert alone <= 8


def test_no_winner_without_an_interval_or_after_a_failure(tmp_path: Path) -> None:
    once = stand(tmp_path, "once", [Speed(loads=1, ttft_ms=50)], cpu="Two")
    many = stand(tmp_path, "many", [Speed()])
    found = best(shelf_of([once, many]))
    assert (found.leader.machine, found.alone) == ("once", False)
    made = make_run([Speed(ttft_ms=50)], machine=machine("Three"))
    made.lines.append(FailureRecord(case=Speed().case.key, reason="crashed", message="gone"))
    crashed = Stand("crashed", side_of(read_columns(made.write(tmp_path / "crashed")), "crashed"))
    shelf = shelf_of([crashed, many])
    assert best(shelf).leader.machine == "many"
    assert "failed: crashed" in shelf_markdown(shelf)


def test_a_disturbed_machine_is_not_told_apart(tmp_path: Path) -> None:
    quiet = stand(tmp_path, "quiet", [Speed()])
    loud = stand(tmp_path, "loud", [Speed(ttft_ms=200, flags=("foreign_load",))], cpu="Two")
    found = best(shelf_of([quiet, loud]))
    assert not found.alone
    assert "loud was disturbed" in matrix_table(first(shelf_of([quiet, loud]))).notes[0]


def test_the_fastest_path_stands_in_the_cell_and_says_its_name(tmp_path: Path) -> None:
    paths = [
        Speed(ttft_ms=100, tpot_ms=10),
        Speed(backend="onnxruntime", engine="onnxruntime", attention="GroupQueryAttention", ttft_ms=80, tpot_ms=12),
    ]
    shelf = shelf_of([stand(tmp_path, "one", paths)])
    by_metric = {m.metric: next(m.entries()).path() for m in shelf.matrices}
    assert by_metric == {"ttft": "onnxruntime GroupQueryAttention", "tpot": "openvino SDPA"}


def test_other_arithmetic_is_another_row_and_an_ablation_none(tmp_path: Path) -> None:
    speeds = [Speed(), Speed(weights="int4", compute="fp32", ttft_ms=60), Speed(weights="int4", compute="int8")]
    shelf = shelf_of([stand(tmp_path, "one", speeds)])
    assert [row.precision for row in first(shelf).rows] == ["fp32", "int4/fp32", "int4/int8"]


def test_equal_machines_share_a_column_and_keep_their_figures(tmp_path: Path) -> None:
    one = stand(tmp_path, "one", [PAIR[0]], seed=1)
    two = stand(tmp_path, "two", [PAIR[1]], seed=2)
    shelf = shelf_of([one, two])
    (place,) = shelf.places
    assert place.machines == ("one", "two")
    assert {(e.row.checkpoint, e.machine) for e in first(shelf).entries()} == {
        ("mu-small", "one"),
        ("dec-small", "two"),
    }
    # The pair was shared out: nobody measured both, so nobody judges it.
    assert shelf.pairs == ()
    assert "another machine, unpaired" in matrix_table(first(shelf)).notes[0]


def test_a_room_of_equal_machines_stays_readable(tmp_path: Path) -> None:
    speeds = [Speed(output_tokens=3, loads=3, rounds=2)]
    many = [stand(tmp_path, f"tablet-{number:02}", speeds, seed=number) for number in range(12)]
    table = matrix_table(first(shelf_of(many)))
    assert table.headers[1] == ["tablet-00", "tablet-01", "tablet-02", "9 more", "cpu"]
    (cell,) = (row[1] for row in table.rows)
    assert cell[-1] == "10 more between"
    figures = [float(line.strip("~* ").split()[0]) for line in cell if "[" in line]
    mids = [entry.interval.mid * 1e3 for entry in first(shelf_of(many)).entries() if entry.interval]
    assert figures == pytest.approx([min(mids), max(mids)], rel=0.01)
    assert len(json.loads(shelf_json(shelf_of(many)))["cells"]) == 24


def test_each_model_says_where_it_is_fastest(tmp_path: Path) -> None:
    """A small model is fastest everywhere: that says nothing of the devices, each model against itself does."""
    big, small = Speed(model="big", ttft_ms=400), Speed(model="small", ttft_ms=40)
    one = stand(tmp_path, "one", [big, small])
    two = stand(tmp_path, "two", [Speed(model="big", ttft_ms=200), Speed(model="small", ttft_ms=41)], cpu="Two", seed=1)
    found = first(shelf_of([one, two])).best_for
    told = {row.checkpoint: {entry.machine for entry in best.entries()} for row, best in found.items()}
    assert told == {"big": {"two"}, "small": {"one", "two"}}
    assert headlines(shelf_of([one, two], ["ttft"])) == [
        "First token: one cpu and two cpu not distinguishable in 1; best on two cpu in 1 "
        "of 2 models and tasks that several devices ran"
    ]


def test_a_machine_that_was_changed_is_two(tmp_path: Path) -> None:
    before, after = (stand(tmp_path / cpu, "one", [Speed()], cpu=cpu) for cpu in ("A", "B"))
    shelf = shelf_of([before, after])
    assert [place.machines for place in shelf.places] == [("one",), ("one (2)",)]


def test_checkpoints_of_one_name_that_differ_are_warned_of(tmp_path: Path) -> None:
    made = make_run([Speed()], machine=machine("Two"))
    info = made.record.cases[0]
    other = info.checkpoint.model_copy(update={"digest": "another"})
    made.record = made.record.model_copy(update={"cases": (info.model_copy(update={"checkpoint": other}),)})
    two = Stand("two", side_of(read_columns(made.write(tmp_path / "two")), "two"))
    shelf = shelf_of([stand(tmp_path, "one", [Speed()]), two])
    assert any("dec-small: the checkpoints of that name differ" in note for note in shelf.notes)


def test_the_headline_counts_tasks(tmp_path: Path) -> None:
    def lengths(short: float, long: float) -> list[Speed]:
        return [Speed(input_tokens=64, ttft_ms=short), Speed(input_tokens=512, ttft_ms=long)]

    shelf = shelf_of(
        [
            stand(tmp_path, "one", lengths(10, 200), cpu="One"),
            stand(tmp_path, "two", lengths(20, 100), cpu="Two", seed=2),
        ],
        ["ttft"],
    )
    (line,) = headlines(shelf)
    assert line == (
        "First token: best on one cpu in 1; best on two cpu in 1 of 2 models and tasks that several devices ran"
    )


def test_names_cannot_break_out_of_any_format(tmp_path: Path) -> None:
    side = side_of(read_columns(make_run([Speed(model=HOSTILE), Speed()]).write(tmp_path / "run")), "run")
    shelf = shelf_of([Stand(f"{HOSTILE}\x1b[2J", side)])
    page = shelf_page(shelf, HOSTILE)
    assert HOSTILE not in page
    assert page.count("<script") == page.count("</script>") == 3
    assert "\x1b" not in page
    markdown = shelf_markdown(shelf)
    assert "<img" not in markdown
    assert "\x1b" not in markdown


@pytest.fixture(scope="module")
def stands(tmp_path_factory: pytest.TempPathFactory) -> list[Stand]:
    """Three unlike machines, one equal to another, with several runs each."""
    folder = tmp_path_factory.mktemp("stands")
    several = [
        *PAIR,
        Speed(backend="onnxruntime", engine="onnxruntime", attention="GroupQueryAttention"),
        Speed(input_tokens=64, ttft_ms=10),
    ]
    return [
        stand(folder, name, [speed for index, speed in enumerate(several) if index % 3 != run], cpu=cpu, seed=run)
        for name, cpu in (("a", "One"), ("b", "Two"), ("c", "Three"), ("d", "Two"))
        for run in range(3)
    ]


@settings(max_examples=20)
@given(data=st.data())
def test_no_order_changes_anything(stands: list[Stand], data: st.DataObject) -> None:
    """Neither the order of machines and runs nor that of the cases within a run."""

    def shuffled(side: Side) -> Side:
        keys = data.draw(st.permutations(list(side.cases)))
        return Side(**{**vars(side), "cases": {key: side.cases[key] for key in keys}})

    wanted = json.loads(shelf_json(shelf_of(stands)))
    mixed = [Stand(s.machine, shuffled(s.side)) for s in data.draw(st.permutations(stands))]
    found = json.loads(shelf_json(shelf_of(mixed)))
    for part in ("machines", "cells", "best", "pairs"):
        assert found[part] == wanted[part]
    assert sorted(found["notes"]) == sorted(wanted["notes"])


@settings(max_examples=10)
@given(left=st.sets(st.integers(0, 11), min_size=1, max_size=11))
def test_a_figure_is_of_one_machine_alone(stands: list[Stand], left: set[int]) -> None:
    """What other machines measured changes no figure: each cell is what its own machine's runs say by themselves."""

    def figures(shelf: Shelf, names: set[str]) -> dict[tuple[str, ...], float]:
        return {
            (e.machine, e.place.device, e.row.label, e.metric, matrix.work.label()): e.interval.mid
            for matrix in shelf.matrices
            for e in matrix.entries()
            if e.interval and e.machine in names
        }

    names = {stands[index].machine for index in left}
    alone = shelf_of([s for s in stands if s.machine in names])
    assert figures(alone, names) == figures(shelf_of(stands), names)


def test_plain_runs_of_unlike_machines_are_refused_and_grouped_on_request(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = [str(make_run([*PAIR], machine=machine(cpu)).write(tmp_path / cpu)) for cpu in ("one", "two", "three")]
    assert run_main(["compare", *names]) == ExitCode.NOT_COMPARABLE
    assert "`slmbench compare --by-machine` groups them by machine" in capsys.readouterr().err
    assert run_main(["compare", *names, "--by-machine", "--format", "json"]) == ExitCode.OK
    raw = json.loads(capsys.readouterr().out)
    assert [kind["equal"] for kind in raw["machines"]] == [["one"], ["three"], ["two"]]
    assert len(raw["cells"]) == 3 * 2 * 2
    assert run_main(["compare", names[0], "--by-machine"]) == ExitCode.OK
    edit_json(tmp_path / "two" / "run.json", machines={})
    assert run_main(["compare", *names, "--by-machine"]) == ExitCode.OK
    assert "two: not known what machine it is" in capsys.readouterr().out
