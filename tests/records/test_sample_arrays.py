"""Runs in columns: the same as objects, and what damaged files are answered with."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from synthetic import PAIR, Speed, append, edit_json, make_run

from slmbench.errors import BadInputError
from slmbench.measure.stop_rule import brief, counted, itl_ns, tpot_ns
from slmbench.records.sample_arrays import columns_of, read_columns
from slmbench.records.schema import Conditions, SampleRecord, read_run
from slmbench.report.run_table import run_table


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_run().write(tmp_path / "run")


def test_columns_say_what_the_objects_say(folder: Path) -> None:
    run, columns = read_run(folder), read_columns(folder)
    for info in run.record.cases:
        mine = [s for s in run.samples if s.case == info.case.key]
        table = columns.recorded[info.case.key]
        assert table.first_ns.tolist() == [s.token_ns[0] for s in mine]
        assert table.tpot_ns() == pytest.approx([tpot_ns(s) for s in mine])
        assert [tuple(g) for g in table.generations()] == [s.token_ns for s in mine]
        assert len(columns.loads[info.case.key]) == PAIR[0].loads
    again = columns_of(run).recorded
    assert all(np.array_equal(again[key].token_ns, columns.recorded[key].token_ns) for key in again)


def test_of_a_sample_and_its_retake_the_less_disturbed_counts(folder: Path) -> None:
    run = read_run(folder)
    first = run.samples[0]
    disturbed = first.model_copy(update={"flags": ("foreign_load",), "conditions": Conditions(foreign_load=0.5)})
    retaken = first.model_copy(update={"flags": ("retaken",), "conditions": Conditions(foreign_load=0.01)})
    run.samples[:] = [retaken, disturbed, *run.samples[1:]]
    mask = columns_of(run).recorded[first.case].counted()
    mine = [s for s in run.samples if s.case == first.case]
    kept = [brief(s) for s, counts in zip(mine, mask, strict=True) if counts]
    assert kept == counted(map(brief, mine))
    assert mask[:2].tolist() == [True, False]


def test_without_tokens_only_their_ends_are_kept(folder: Path) -> None:
    slim = read_columns(folder, keep_tokens=False)
    full = read_columns(folder)
    for key, columns in slim.recorded.items():
        assert columns.token_ns.size == 0
        assert columns.generations() == []
        assert np.array_equal(columns.last_ns, full.recorded[key].last_ns)


def test_a_cut_off_last_line_is_left_out_and_said(folder: Path) -> None:
    path = folder / "samples.jsonl"
    whole = read_columns(folder)
    path.write_bytes(path.read_bytes() + b'{"type": "sample", "case": "x", "tok')
    cut = read_columns(folder)
    assert cut.sample_count == whole.sample_count
    assert len(cut.warnings) == 1
    assert "cut off" in cut.warnings[0]


def sample(run_key: str, **changes: object) -> dict[str, object]:
    record = SampleRecord(
        case=run_key, load=0, round=0, started="", batch=1, input_tokens=1, output_tokens=2, token_ns=(1, 2)
    )
    return {**record.model_dump(mode="json"), **changes}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"token_ns": [0, 5]}, "a time of 0 ns"),
        ({"token_ns": [-3, 5]}, "a time of -3 ns"),
        ({"token_ns": [5, 3]}, "time runs backwards"),
        ({"token_ns": [5, 5]}, "2 tokens in no time"),
        ({"token_ns": []}, "without tokens"),
        ({"token_ns": ["5"]}, "not a sample"),
        ({"token_ns": [1.5, 2.5]}, "not a sample"),
        ({"load": None}, "not a sample"),
        ({"case": "nobody"}, "does not list: nobody"),
        ({"type": "sampel"}, "unknown type 'sampel'"),
    ],
)
def test_samples_that_are_none_are_refused_with_file_and_line(
    folder: Path, changes: dict[str, object], message: str
) -> None:
    path = folder / "samples.jsonl"
    key = read_run(folder).record.cases[0].case.key
    lines = path.read_text(encoding="utf-8").splitlines()
    path.write_text("\n".join([*lines, json.dumps(sample(key, **changes)), ""]), encoding="utf-8")
    with pytest.raises(BadInputError) as caught:
        read_columns(folder)
    assert message in str(caught.value)
    assert "samples.jsonl" in str(caught.value)


def test_a_broken_line_in_the_middle_is_an_error(folder: Path) -> None:
    path = folder / "samples.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines()
    path.write_text("\n".join([lines[0], lines[1][:40], *lines[2:], ""]), encoding="utf-8")
    with pytest.raises(BadInputError, match=r"samples.jsonl:2: not JSON"):
        read_columns(folder)


def test_a_newer_schema_is_refused(folder: Path) -> None:
    edit_json(folder / "run.json", schema_version=99)
    with pytest.raises(BadInputError, match="schema version 99"):
        read_columns(folder)


def test_phases_that_some_samples_lack_are_nan(tmp_path: Path) -> None:
    folder = make_run([Speed(model="mu-small", family="encoder-decoder", loads=1, rounds=1)]).write(tmp_path / "run")
    run = read_run(folder)
    append(folder, run.samples[0].model_copy(update={"round": 7, "phases_ns": {}}))
    append(folder, run.samples[0].model_copy(update={"round": 8}))
    phases = read_columns(folder).recorded[run.samples[0].case].phases_ns["encode"]
    assert np.isnan(phases).tolist() == [False, True, False]


def test_turns_and_samples_are_the_same_in_columns(folder: Path) -> None:
    run = read_run(folder)
    first = run.samples[0]
    count = len(first.token_ns)
    cut = count - 3
    said = first.model_copy(
        update={"turn_start_ns": (0, first.token_ns[cut - 1]), "turn_tokens": (cut, 3), "answers": 2}
    )
    run.samples[:] = [said]
    found = columns_of(run).recorded[said.case]
    assert found.rows.tolist() == [2 * said.batch]
    assert found.tpot_ns() == pytest.approx([tpot_ns(said)])
    second = said.token_ns[said.turn_tokens[0]] - said.turn_start_ns[1]
    assert found.turn_first_ns.tolist() == found.last_turn_first_ns.tolist() == [second]
    assert [stamps.tolist() for stamps in found.generations()] == [list(said.token_ns[:cut]), list(said.token_ns[cut:])]
    # The table's gaps are those within every turn, as the per-token time's are.
    row = run_table(columns_of(run)).iloc[0]
    assert row["itl_max_s"] == pytest.approx(itl_ns(said).max() / 1e9)
    assert itl_ns(said).size == count - 2


def test_turns_that_do_not_add_up_are_refused(folder: Path) -> None:
    run = read_run(folder)
    run.samples[:] = [run.samples[0].model_copy(update={"turn_start_ns": (0, 1), "turn_tokens": (1, 1)})]
    with pytest.raises(BadInputError, match="turn_tokens: they do not add up"):
        columns_of(run)
