"""What strangers send: pickles, paths, links, escapes. And nothing of ours, or of any library's, calls home."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest
from rotation import in_turn, takes_turns
from synthetic import Speed, make_run

from slmbench.cli import run_main
from slmbench.errors import BadInputError
from slmbench.models.artifact import MANIFEST_NAME, damage, read_artifact
from slmbench.records.sample_writer import SampleWriter
from slmbench.records.schema import RUN_NAME, SAMPLES_NAME
from slmbench.running.worker_process import Worker

FIXTURES = Path(__file__).parents[1] / "fixtures"
#: What must not reach a terminal, a Markdown table or a page as it is.
HOSTILE = "\x1b]0;owned\x07<script>alert(1)</script>|[x](javascript:alert(1))"


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    """A run whose names are hostile."""
    speeds = [Speed(model=f"{HOSTILE} {n}", options=(("o", HOSTILE),)) for n in range(2)]
    return make_run(speeds, run_id=HOSTILE).write(tmp_path / "run")


@pytest.mark.parametrize("way", [["--markdown"], [], ["--write"]])
def test_names_steer_nothing(hostile: Path, way: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run_main(["table", str(hostile), *way]) == 0
    told = capsys.readouterr()
    assert "\x1b" not in told.out + told.err
    assert "\x07" not in told.out + told.err
    if way == ["--markdown"]:
        assert "<script>" not in told.out
        assert "](javascript:" not in told.out
    if way == ["--write"]:
        for name in ("table.md", "report.html"):
            written = (hostile / name).read_text(encoding="utf-8")
            assert "<script>alert" not in written, name
            assert "\x1b" not in written, name


def test_a_link_in_results_is_replaced_not_followed(tmp_path: Path) -> None:
    folder = make_run().write(tmp_path / "run")
    precious = tmp_path / "precious"
    precious.write_text("mine")
    for name in ("table.md", "table.csv", "report.html"):
        (folder / name).symlink_to(precious)
    assert run_main(["table", str(folder), "--write"]) == 0
    assert precious.read_text() == "mine"
    assert not (folder / "table.md").is_symlink()


@pytest.mark.parametrize("place", ["weights.bin", "genai_config.json", "deeper/weights.bin"])
def test_a_link_out_of_an_artifact_is_refused_before_an_engine_sees_it(tmp_path: Path, place: str) -> None:
    """Listed in the manifest or not: its hash is that of what it leads to, so hashes alone do not find it."""
    secret = tmp_path / "secret"
    secret.write_bytes(b"mine")
    folder = _artifact(tmp_path / "artifact")
    (folder / place).parent.mkdir(exist_ok=True)
    (folder / place).symlink_to(secret)
    with pytest.raises(BadInputError, match=rf"{re.escape(str(folder / place))}: a link that leads out"):
        read_artifact(folder)


def test_a_link_within_an_artifact_is_a_file_of_it(tmp_path: Path) -> None:
    folder = _artifact(tmp_path / "artifact")
    (folder / "again.json").symlink_to(MANIFEST_NAME)
    assert read_artifact(folder).folder == folder


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names")
@pytest.mark.parametrize("place", [MANIFEST_NAME, "golden.json", "weights.bin"])
def test_a_pipe_in_an_artifact_is_not_waited_for(tmp_path: Path, place: str) -> None:
    folder = _artifact(tmp_path / "artifact")
    (folder / place).unlink(missing_ok=True)
    os.mkfifo(folder / place)
    with pytest.raises(BadInputError, match=rf"{re.escape(str(folder / place))}: neither a file nor a folder"):
        read_artifact(folder)


def test_a_graph_without_a_hash_is_damage(tmp_path: Path) -> None:
    """Else a graph that the manifest's files leave out would be opened, whatever it is."""
    artifact = read_artifact(_artifact(tmp_path / "artifact"))
    bare = replace(artifact, manifest=artifact.manifest.model_copy(update={"files": (), "graphs": {"model": "m.onnx"}}))
    assert "m.onnx is a graph that the manifest has no hash of" in str(damage(bare))


def _artifact(folder: Path) -> Path:
    folder.mkdir()
    shutil.copy(FIXTURES / "schema-1" / MANIFEST_NAME, folder / MANIFEST_NAME)
    return folder


#: Where weights can be that are not the model's: next to its folder, anywhere, behind a link.
ELSEWHERE = ["../secret.bin", "{folder}/secret.bin", "link.bin"]


@pytest.mark.parametrize("location", ELSEWHERE)
@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_weights_outside_the_models_folder_are_not_read(tmp_path: Path, engine: str, location: str) -> None:
    """Both engines refuse by themselves; the day one of them stops to, this says so."""
    pytest.importorskip(engine)
    onnx = pytest.importorskip("onnx")
    (tmp_path / "secret.bin").write_bytes(bytes(4096))
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "link.bin").symlink_to(tmp_path / "secret.bin")
    weights = onnx.TensorProto(name="w", data_type=1, dims=[1024], data_location=onnx.TensorProto.EXTERNAL)
    weights.external_data.add(key="location", value=location.format(folder=tmp_path))
    ends = [onnx.helper.make_tensor_value_info(name, 1, [1024]) for name in "xy"]
    add = onnx.helper.make_node("Add", ["x", "w"], ["y"])
    graph = onnx.helper.make_graph([add], "g", ends[:1], ends[1:], [weights])
    model = onnx.helper.make_model(graph, ir_version=10, opset_imports=[onnx.helper.make_opsetid("", 18)])
    path = tmp_path / "in" / "model.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(
        Exception, match=r"escapes model directory|Absolute path not allowed|outside the base directory"
    ):
        _read(engine, path)


def _read(engine: str, path: Path) -> None:
    if engine == "onnxruntime":
        import onnxruntime

        onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    else:
        import openvino

        openvino.Core().read_model(path)


def _without_network() -> list[str] | None:
    """Return the command that takes the network away, where this system lets us."""
    unshare = shutil.which("unshare")
    if unshare is None or subprocess.run([unshare, "-rn", "true"], capture_output=True, check=False).returncode:
        return None
    return [unshare, "-rn"]


#: Notes every look-up and connection of every process, workers and exports too, and lets loopback through alone.
SITE = """
import os, sys
def watch(event, args):
    if event == "socket.connect":
        target = args[1][0] if isinstance(args[1], tuple) else ""
    elif event in ("socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr", "socket.sendto"):
        target = args[0] if isinstance(args[0], str) else args[1][0] if isinstance(args[1], tuple) else ""
    else:
        return
    if str(target) in ("", "127.0.0.1", "localhost", "::1", "None"):
        return
    with open(os.environ["NETWORK_NOTES"], "a") as file:
        file.write(f"{event} {args[-1] if event == 'socket.connect' else target} by {sys.argv[:4]}\\n")
    raise OSError("a test without network")
sys.addaudithook(watch)
"""
BACKENDS = in_turn(("openvino", "openvino_genai", "onnxruntime", "onnxruntime_genai", "torch"), 2)
#: Brings loopback up in a network of its own, and runs one command after the other.
MAIN = """
import fcntl, os, socket, struct, sys
if sys.argv[1] == "alone":
    with socket.socket() as one:
        fcntl.ioctl(one, 0x8914, struct.pack("16sh", b"lo", 0x1 | 0x40))
from slmbench.cli import run_main
for line in sys.argv[2:]:
    if code := run_main(line.split()):
        sys.exit(f"{line}: {code}")
"""
#: `{run}` is measured by the first of them, `{good}` a run of many loads that was not measured.
SMALL = "--input-tokens 16 --output-tokens 4 --repeat 1"
COMMANDS = [
    f"run --model dec-tiny {SMALL} --out {{run}} {' '.join(f'--backend {name}' for name in BACKENDS)}",
    "models", "suites", "devices", "doctor", "explain mu-tiny", "cache list", "table {run} --plots {run}/plots",
    "compare {run} {run}", "run --dry-run", "export mu-tiny --format onnx", "limits --backend onnxruntime",
    "history {run} {run} --plot {run}/history.html", "baseline save {good} {run}/b.json",
    "check --gate 30% --baseline {run}/b.json {good} --summary {run}/s.md", "cache verify",
]  # fmt: skip
FLEET = f"run --model mu-tiny {SMALL} --backend onnxruntime --backend openvino --fleet local --out {{run}}-fleet"


@takes_turns(3, 4)
@pytest.mark.slow
def test_nothing_needs_a_network_or_looks_for_one(tmp_path: Path, shared_cache: Path) -> None:
    """Every command, and every engine in its worker; a fleet on loopback alone."""
    for package in ("onnxruntime", "onnxruntime_genai", "openvino_genai", "torch"):
        pytest.importorskip(package, reason="needs slmbench[cpu]")
    (tmp_path / "sitecustomize.py").write_text(SITE)
    notes = tmp_path / "notes"
    environment = {key: value for key, value in os.environ.items() if key != "HF_HUB_OFFLINE"}
    environment |= {"PYTHONPATH": str(tmp_path), "NETWORK_NOTES": str(notes)}
    prefix = _without_network()

    run, good = tmp_path / "run", make_run().write(tmp_path / "good")
    told = COMMANDS + [FLEET] * bool(find_spec("distributed"))
    commands = [command.format(run=run, good=good) for command in told]
    done = subprocess.run(
        [*(prefix or []), sys.executable, "-P", "-c", MAIN, "alone" if prefix else "", *commands],
        env=environment, capture_output=True, text=True, timeout=500, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (run / RUN_NAME).is_file()
    assert (run / "report.html").is_file()
    assert not notes.exists(), notes.read_text()
    for log in run.glob("logs/*"):
        assert "getaddrinfo" not in log.read_text(errors="replace"), log


@pytest.fixture
def special(tmp_path: Path) -> Path:
    """A folder with a device that never ends behind links, and pipes that nobody writes to."""
    if not hasattr(os, "mkfifo"):
        pytest.skip("this system has no such files")
    for name in ("z.yaml", "zero"):
        (tmp_path / name).symlink_to("/dev/zero")
    for name in ("p.yaml", "pipe"):
        os.mkfifo(tmp_path / name)
    for name in ("zero-run", "pipe-run", "zero-samples", "pipe-samples"):
        (tmp_path / name).mkdir()
    (tmp_path / "zero-run" / RUN_NAME).symlink_to("/dev/zero")
    os.mkfifo(tmp_path / "pipe-run" / RUN_NAME)
    good = make_run().write(tmp_path / "good")
    for name in ("zero-samples", "pipe-samples"):
        shutil.copy(good / RUN_NAME, tmp_path / name / RUN_NAME)
    (tmp_path / "zero-samples" / SAMPLES_NAME).symlink_to("/dev/zero")
    os.mkfifo(tmp_path / "pipe-samples" / SAMPLES_NAME)
    manifest = tmp_path / "cache" / "artifacts" / ("0" * 32) / MANIFEST_NAME
    manifest.parent.mkdir(parents=True)
    manifest.symlink_to("/dev/zero")
    return tmp_path


@pytest.mark.parametrize(
    "command",
    [
        *(f"table {name}" for name in ("zero-run", "pipe-run", "zero-samples", "pipe-samples")),
        "compare zero-run good", "history zero-samples", "check --baseline good good --gates z.yaml",
        "check --baseline good good --gates p.yaml", "suites show z.yaml", "run --suite p.yaml --dry-run",
        "run --model mu-tiny --prompts zero --dry-run", "run --model mu-tiny --prompts pipe --dry-run",
        "cache verify --json",
    ],
)  # fmt: skip
def test_a_device_or_a_pipe_is_not_read(
    command: str, special: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Links and pipes come along in an archive of results; read as files they take all memory, or wait for ever."""
    monkeypatch.chdir(special)
    monkeypatch.setenv("SLMBENCH_CACHE", str(special / "cache"))
    assert run_main(command.split()) in (2, 5)
    told = capsys.readouterr()
    assert "not a regular file" in told.out + told.err


def test_what_is_measured_is_not_added_to_a_file_somewhere_else(tmp_path: Path) -> None:
    """A resumed run cuts off a last line that is not whole, and appends: in a stranger's folder to anything."""
    precious = tmp_path / "precious"
    precious.write_text("mine, without an end of line")
    folder = make_run().write(tmp_path / "run")
    (folder / SAMPLES_NAME).unlink()
    (folder / SAMPLES_NAME).symlink_to(precious)
    with pytest.raises(BadInputError, match="is a link"):
        SampleWriter(folder)
    log = tmp_path / "logs" / "case.log"
    log.parent.mkdir()
    log.symlink_to(precious)
    with Worker(log, command=[sys.executable, "-c", "import sys; sys.stderr.write('engine')"]):
        pass
    assert precious.read_text() == "mine, without an end of line"
    assert not log.is_symlink()
