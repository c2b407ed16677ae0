"""A checkpoint's own picture processor runs in a process of its own: not in the memory shown, never left over."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from rotation import takes_turns

from slmbench.cli import run_main
from slmbench.errors import BadInputError
from slmbench.measure.pictures import drawn
from slmbench.records.schema import read_run
from slmbench.running.worker_process import Worker
from slmbench.worker import protocol as p
from slmbench.worker.picture_process import ProcessorElsewhere

pytest.importorskip("torch", reason="exporting needs slmbench[export]")
pytest.importorskip("PIL", reason="needs slmbench[pictures]")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """One network, with the processor that it came with and without."""
    from picture_folders import make

    root = tmp_path_factory.mktemp("networks")
    with_own = make("llava", root / "with-own")
    without = Path(shutil.copytree(with_own, root / "without"))
    (without / "preprocessor_config.json").unlink()
    return with_own, without


@pytest.mark.parametrize(
    "engine",
    [pytest.param(name, marks=takes_turns(place, 2)) for place, name in enumerate(("onnxruntime", "openvino"))],
)
def test_memory_is_the_engines_alone(
    engine: str, folders: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip(engine, reason="needs slmbench[cpu]")
    out = tmp_path / "run"
    models = [word for folder in folders for word in ("--model", str(folder))]
    asked = ["--backend", engine, "--images", "1", "--image-size", "640x480", "--input-tokens", "8"]
    assert run_main(["run", *models, *asked, "--output-tokens", "3", "--repeat", "1", "--out", str(out)]) == 0
    run = read_run(out)
    settings = {load.case: load.settings["picture processor"] for load in run.loads}
    (own,) = [case for case, said in settings.items() if said.startswith("CLIPImageProcessor")]
    (plain,) = [case for case, said in settings.items() if said.startswith("resized to 64x64")]
    held = {record.case: record.peak_uss_bytes or record.peak_rss_bytes for record in run.memory}
    # transformers and torch take 800 MB; an engine with this network 100.
    assert held[own] == pytest.approx(held[plain], rel=0.1, abs=16e6)
    for sample in run.samples:
        assert sample.phases_ns["preprocess"] > 0
    assert "preprocess ms" in (out / "table.md").read_text(encoding="utf-8")
    assert "picture" in capsys.readouterr().out
    assert not [child for child in psutil.Process().children() if "slmbench.worker" in " ".join(child.cmdline())]


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def words(process: psutil.Process) -> str:
    """Return a process's command line; nothing of one that has just ended."""
    try:
        return " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return ""


@pytest.mark.parametrize(
    "how", [pytest.param(one, marks=takes_turns(place, 2)) for place, one in enumerate((signal.SIGINT, signal.SIGKILL))]
)
def test_no_process_is_left_over(how: signal.Signals, folders: tuple[Path, Path], tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="needs slmbench[cpu]")
    asked = ["--backend", "onnxruntime", "--images", "1", "--image-size", "640x480", "--input-tokens", "8"]
    command = ["run", "--model", str(folders[0]), *asked, "--output-tokens", "3", "--repeat", "400"]
    with (tmp_path / "said.txt").open("wb") as said:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "slmbench", *command, "--out", str(tmp_path / "run")],
            stdout=said, stderr=said, process_group=0,
        )  # fmt: skip
        samples, deadline = tmp_path / "run" / "samples.jsonl", time.monotonic() + 300
        while not (samples.exists() and b'"sample"' in samples.read_bytes()):
            assert process.poll() is None, (tmp_path / "said.txt").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.05)
    ours = psutil.Process(process.pid).children(recursive=True)
    # The worker, and the process that prepares its pictures: torch's own helpers may be there as well.
    assert len([child for child in ours if "slmbench.worker" in words(child)]) == 2
    process.send_signal(how)
    assert process.wait(60) == (130 if how == signal.SIGINT else -signal.SIGKILL)
    _, alive = psutil.wait_procs(ours, timeout=30)
    assert not alive


@pytest.fixture
def elsewhere(tmp_path: Path):  # type: ignore[no-untyped-def]
    with Worker(tmp_path / "pictures.log") as worker:
        reply = worker.ask(p.PreparePictures(key="k"), p.PreparesPictures, 60)
        yield worker, p.PictureProcess(address=reply.address, key="k")


def test_pixels_and_refusals_are_those_of_the_processor(
    elsewhere: tuple[Worker, p.PictureProcess], folders: tuple[Path, Path], tmp_path: Path
) -> None:
    from slmbench.models.picture_processor import own_processor

    worker, there = elsewhere
    remote = ProcessorElsewhere(there)
    make, settings = remote.own_processor(folders[0])
    here, here_settings = own_processor(folders[0])
    assert settings == here_settings
    pictures = [drawn(1, 80, 60), drawn(2, 31, 77)]
    found, wanted = make(pictures), here(pictures)
    assert found.keys() == wanted.keys()
    for name, array in wanted.items():
        assert found[name].dtype == array.dtype
        assert found[name].shape == array.shape
        assert (found[name] == array).all()
        assert found[name].flags.writeable
    assert 0 < remote.spent_ns < 60e9
    (tmp_path / "preprocessor_config.json").write_text('{"image_processor_type": "NoSuchProcessor"}')
    with pytest.raises(BadInputError, match="preprocessor_config.json: not a processor of pictures"):
        ProcessorElsewhere(there).own_processor(tmp_path)
    with pytest.raises(ChildProcessError, match="is gone"):
        ProcessorElsewhere(there.model_copy(update={"key": "another"})).own_processor(folders[0])
    # It serves others after both.
    assert make(pictures).keys() == wanted.keys()
    worker.kill()
    with pytest.raises(ChildProcessError, match="the process that prepares pictures is gone"):
        make(pictures)
