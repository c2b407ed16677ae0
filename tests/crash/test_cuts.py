"""A run whose files were cut at any byte goes on, or ends in one clear line."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import pytest
from rotation import takes_turns

from slmbench.cli import run_main
from slmbench.errors import BadInputError
from slmbench.measure.stop_rule import counted
from slmbench.plan.request import RunRequest
from slmbench.records.sample_arrays import read_columns
from slmbench.records.sample_writer import SampleWriter
from slmbench.records.schema import RUN_NAME, SAMPLES_NAME, read_run, read_run_record
from slmbench.running.case_state import finished, restore
from slmbench.running.runner import resumed
from slmbench.running.settings import PlannedCase

FIXTURES = Path(__file__).parents[1] / "fixtures"
RUNS = sorted(folder.parent for folder in FIXTURES.glob("*/run/run.json"))
CUTS = 24


def cuts(path: Path) -> list[int]:
    """Return where to cut a file: its ends, the ends of its lines and next to them, and anywhere."""
    data = path.read_bytes()
    lines = [index + 1 for index, byte in enumerate(data) if byte == ord("\n")]
    drawn = random.Random(path.name)
    near = [place + by for place in drawn.sample(lines, min(len(lines), CUTS // 3)) for by in (-1, 0, 1)]
    anywhere = [drawn.randrange(len(data)) for _ in range(CUTS)]
    return sorted({0, 1, len(data) - 1, *anywhere, *(place for place in near if place < len(data))})


@pytest.fixture(scope="module", params=RUNS, ids=lambda folder: folder.parent.name)
def complete(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("complete") / "whole"
    shutil.copytree(request.param, folder)
    assert run_main(["table", str(folder), "--write"]) == 0
    (folder / "logs").mkdir()
    (folder / "logs" / "case.log").write_text("loading\nloaded\n")
    return folder


@pytest.fixture
def whole(complete: Path, tmp_path: Path) -> Path:
    """A finished run with everything that lies in its folder."""
    return Path(shutil.copytree(complete, tmp_path / "whole"))


def planned(folder: Path) -> list[PlannedCase]:
    infos = read_run_record(folder / RUN_NAME).cases
    return [PlannedCase(info.case, info.checkpoint, folder, info.artifact_id or "") for info in infos]


def test_samples_cut_anywhere_are_those_of_the_whole_lines(whole: Path) -> None:
    data, plan = (whole / SAMPLES_NAME).read_bytes(), planned(whole)
    total = len(read_run(whole).samples)
    for place in cuts(whole / SAMPLES_NAME):
        (whole / SAMPLES_NAME).write_bytes(data[:place])
        lines = [json.loads(line) for line in data[:place].splitlines(keepends=True) if line.endswith(b"\n")]
        expected = sum(line["type"] == "sample" for line in lines)
        states, next_round, _ = restore(plan, whole)
        assert sum(len(state.samples) for state in states) == expected, place
        assert read_columns(whole).sample_count == expected, place
        assert next_round == 1 + max((line["round"] for line in lines if line["type"] == "sample"), default=-1)
        # What a load lost is taken again, although run.json says that the run has ended.
        loads = {(line["case"], line["load"]) for line in lines if line["type"] == "sample"}
        whole_loads = sum(outcome.loads for outcome in read_run_record(whole / RUN_NAME).outcomes.values())
        assert (finished(whole, states) is None) == (len(loads) < whole_loads), place
        with SampleWriter(whole):
            pass
        assert (whole / SAMPLES_NAME).read_bytes() == data[: data.rfind(b"\n", 0, place) + 1]
        assert len(read_run(whole).samples) == expected <= total


def test_a_record_cut_anywhere_is_one_clear_line(whole: Path) -> None:
    path = whole / RUN_NAME
    data = path.read_bytes()
    for place in cuts(path):
        path.write_bytes(data[:place])
        if data[:place].strip() == data.strip():
            resumed(RunRequest(resume=whole))
            continue
        with pytest.raises(BadInputError) as caught:
            resumed(RunRequest(resume=whole))
        assert str(caught.value).startswith(f"{path}: ")
        assert "\n" not in str(caught.value)


def test_any_other_file_may_be_cut_or_gone(whole: Path) -> None:
    others = [path for path in whole.rglob("*") if path.is_file() and path.name not in (RUN_NAME, SAMPLES_NAME)]
    assert {path.name for path in others} >= {"table.md", "table.csv", "report.html", "case.log"}
    before = len(read_run(whole).samples)
    for path in others:
        data = path.read_bytes()
        for place in random.Random(path.name).sample(range(len(data)), 5):
            path.write_bytes(data[:place])
            assert len(read_run(whole).samples) == before
            resumed(RunRequest(resume=whole))
            states, _, _ = restore(planned(whole), whole)
            assert sum(len(state.samples) for state in states) == before
        path.unlink()
        assert len(read_run(whole).samples) == before


@takes_turns(0, 2)
@pytest.mark.slow
def test_a_cut_run_is_resumed_to_its_end_by_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("onnxruntime", reason="needs slmbench[cpu]")
    out = tmp_path / "whole"
    arguments = "run --pair mu-tiny,dec-tiny --backend onnxruntime --input-tokens 8 --output-tokens 3 --repeat 2"
    assert run_main([*arguments.split(), "--out", str(out)]) == 0
    samples = (out / SAMPLES_NAME).read_bytes()
    for number, place in enumerate(random.Random(7).sample(range(len(samples)), 3)):
        folder = tmp_path / f"cut-{number}"
        shutil.copytree(out, folder)
        (folder / SAMPLES_NAME).write_bytes(samples[:place])
        (folder / "report.html").write_bytes(b"")
        assert run_main(["run", "--resume", str(folder)]) == 0, place
        run = read_run(folder)
        assert run.record.finished
        for state in restore(planned(folder), folder)[0]:
            assert len(counted(state.samples)) >= 2, (place, state.key)
        assert (folder / SAMPLES_NAME).read_bytes().startswith(samples[: samples.rfind(b"\n", 0, place) + 1])
        assert (folder / "report.html").stat().st_size > 1000
    record = (out / RUN_NAME).read_bytes()
    (out / RUN_NAME).write_bytes(record[: len(record) // 2])
    capsys.readouterr()
    assert run_main(["run", "--resume", str(out)]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
