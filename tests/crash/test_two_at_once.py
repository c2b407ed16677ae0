"""Two commands at once, as real processes: nothing is torn, and who must wait is told so."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from known_limits import keep_limits
from rotation import takes_turns

from slmbench.models.artifact import ArtifactSpec
from slmbench.models.checkpoint import resolve
from slmbench.records.schema import RUN_NAME, SAMPLES_NAME, RunRecord, SampleRecord, read_run, read_samples

pytest.importorskip("torch", reason="exporting needs slmbench[export]")
pytest.importorskip("openvino", reason="needs slmbench[cpu]")

RUN = ["run", "--model", "mu-tiny", "--backend", "openvino", "--input-tokens", "16", "--output-tokens", "4"]


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Return the environment of a cache of its own that has mu-tiny's artifact and the limits."""
    from slmbench.export.build import ensure_artifact

    artifact = ensure_artifact(resolve("mu-tiny"), ArtifactSpec(format="openvino"), progress=lambda _: None)
    cache = tmp_path / "cache"
    shutil.copytree(artifact.folder, cache / "artifacts" / artifact.folder.name)
    keep_limits(cache)
    return {**os.environ, "SLMBENCH_CACHE": str(cache), "COLUMNS": "200"}


def slmbench(*words: str, environment: dict[str, str], prefix: Sequence[str] = ()) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*prefix, sys.executable, "-m", "slmbench", *words],
        env=environment,
        text=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    told, _ = process.communicate(timeout=240)
    assert "Traceback" not in told, told
    return process.returncode, told


def wait_for_a_sample(run: subprocess.Popen[str], out: Path) -> None:
    deadline = time.monotonic() + 120
    while not (out / SAMPLES_NAME).exists() or not samples(out):
        assert run.poll() is None, run.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.05)


def samples(out: Path) -> list[SampleRecord]:
    return [r for r in read_samples(out / SAMPLES_NAME, []) if isinstance(r, SampleRecord)]


@takes_turns(0, 3)
def test_a_folder_is_not_measured_into_twice_and_its_artifacts_stay(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    out = tmp_path / "run"
    # The budget leaves room for all of them on a busy machine.
    long = ["--repeat", "60", "--budget", "900"]
    first = slmbench(*RUN, *long, "--out", str(out), environment=environment)
    wait_for_a_sample(first, out)
    resumed = slmbench("run", "--resume", str(out), environment=environment)
    cleaned = slmbench("cache", "clean", "--all", environment=environment)
    exported = slmbench("export", "mu-tiny", "--format", "openvino", "--force", environment=environment)
    verified = slmbench("cache", "verify", environment=environment)
    code, told = ended(resumed)
    assert code == 2, told
    assert f"{out}: another slmbench run is writing here" in told
    code, told = ended(cleaned)
    assert (code, "removed 0 artifacts" in told, "another process is writing or measuring it" in told) == (
        0,
        True,
        True,
    )
    assert ended(verified)[0] == 0
    code, told = ended(exported)
    assert code == 5, told
    assert "another slmbench measures it; let that end, then export again" in told
    assert first.poll() is None, "the first run ended before the others: nothing was shown"
    code, told = ended(first)
    assert code == 0, told
    assert len(samples(out)) >= 60
    assert isinstance(read_run(out).record, RunRecord)
    code, told = ended(slmbench("cache", "clean", "--all", environment=environment))
    assert "removed 1 artifact," in told


def test_two_runs_into_one_new_folder(tmp_path: Path, environment: dict[str, str]) -> None:
    """One of them measures; the other says why it does not."""
    out = tmp_path / "run"
    both = [slmbench(*RUN, "--repeat", "3", "--out", str(out), environment=environment) for _ in range(2)]
    ends = sorted(ended(process) for process in both)
    assert [code for code, _ in ends] == [0, 2], ends
    assert f"{out}: " in ends[1][1]
    assert {sample.round for sample in samples(out)} == {0, 1, 2}


@takes_turns(1, 3)
def test_two_exports_of_one_artifact(environment: dict[str, str]) -> None:
    """Both are forced to write: one after the other, and what remains is whole."""
    export = ["export", "llama-tiny", "--format", "torch", "--force"]
    both = [ended(process) for process in [slmbench(*export, environment=environment) for _ in range(2)]]
    assert [code for code, _ in both] == [0, 0], both
    assert sum("another process is exporting llama-tiny; waiting for it" in told for _, told in both) == 1
    code, told = ended(slmbench("cache", "verify", "--json", environment=environment))
    assert code == 0, told
    assert ".writing-" not in told
    assert told.count('"llama-tiny"') == 1


@takes_turns(1, 3)
@pytest.mark.skipif(os.name == "nt", reason="POSIX limits")
def test_a_disk_that_fills_up_before_the_report(tmp_path: Path, environment: dict[str, str]) -> None:
    """Every sample is there: the line says what makes the rest, and what was there before stays whole."""
    out = tmp_path / "run"
    code, told = ended(slmbench(*RUN, "--repeat", "3", "--out", str(out), environment=environment))
    assert code == 0, told
    before = {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()}
    (out / "table.md").unlink()
    for most, words in (
        (1000, f"{out / RUN_NAME}: cannot be written: File too large"),
        (len(before[RUN_NAME]) + 4000, f"every sample is kept, `slmbench table {out} --write` writes the reports"),
    ):
        limited = ["bash", "-c", f'ulimit -f {most // 1000}; exec "$@"', "bash"]
        resumed = slmbench("run", "--resume", str(out), environment=environment, prefix=limited)
        code, told = ended(resumed)
        assert code == 5, told
        assert words in told
        left = {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()}
        assert {name: data for name, data in left.items() if name not in (RUN_NAME, "table.md")} == {
            name: data for name, data in before.items() if name not in (RUN_NAME, "table.md")
        }
        assert isinstance(read_run(out).record, RunRecord)
    code, told = ended(slmbench("table", str(out), "--write", environment=environment))
    assert code == 0, told
    assert (out / "table.md").read_bytes() == before["table.md"]


@takes_turns(2, 3)
def test_a_cache_that_goes_in_mid_run_ends_it_resumably(tmp_path: Path, environment: dict[str, str]) -> None:
    """Somebody removes the whole cache while a run measures: one line, every sample stays, resuming completes it."""
    out = tmp_path / "run"
    # Several loads are still to come: one of them finds nothing there.
    run = slmbench(*RUN, "--repeat", "15", "--out", str(out), environment=environment)
    wait_for_a_sample(run, out)
    shutil.rmtree(environment["SLMBENCH_CACHE"])
    code, told = ended(run)
    assert code == 5, told
    assert "was removed while it was measured; samples are kept" in told
    kept = samples(out)
    assert kept
    code, told = ended(slmbench("run", "--resume", str(out), environment=environment))
    assert "exporting mu-tiny" in told
    assert samples(out)[: len(kept)] == kept
    assert read_run(out).record.finished is not None
