"""Where results are written to: devices, links, names of any bytes; and shells that close or print what they like."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from artifact_files import checkpoint_elsewhere, write_artifact
from known_limits import keep_limits
from rotation import in_turn
from synthetic import Speed, make_run

from slmbench.cli import run_main
from slmbench.errors import BadInputError
from slmbench.plan.request import RunRequest, request_from_file
from slmbench.records.schema import RUN_NAME, SAMPLES_NAME, read_run, read_run_record, write_run
from slmbench.system.files import MOST_LINE_BYTES

pytestmark = pytest.mark.skipif(os.name == "nt", reason="POSIX devices, links and permissions")

SLMBENCH = [sys.executable, "-P", "-m", "slmbench"]
#: A folder's name as some archives bring it: bytes that are no text.
BYTES = os.fsdecode(b"caf\xe9")
SMALL = ["--input-tokens", "8", "--output-tokens", "2", "--repeat", "2"]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make_run([Speed(model="a"), Speed(model="b")]).write(tmp_path / "run")


def slmbench(*arguments: str | Path, **options: object) -> subprocess.CompletedProcess[bytes]:
    told = subprocess.run([*SLMBENCH, *map(str, arguments)], capture_output=True, timeout=300, **options)  # type: ignore[call-overload]  # its options are typed one by one
    assert b"Traceback" not in told.stderr, told.stderr.decode(errors="replace")
    return told  # type: ignore[no-any-return]  # as above


@pytest.mark.parametrize("writing", ["baseline save {run} {out}", "compare {run} {run} --format json --out {out}"])
def test_a_device_stays_a_device(writing: str, run: Path, tmp_path: Path) -> None:
    """Run by root, a rename onto /dev/null makes a file of it, and every program on the machine breaks."""
    null = Path("/dev/null").stat()
    told = slmbench(*writing.format(run=run, out="/dev/null").split())
    assert told.returncode == 0, told.stderr
    assert os.path.samestat(null, Path("/dev/null").stat())
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)
    told = slmbench(*writing.format(run=run, out="/dev/stdout").split())
    assert told.returncode == 0, told.stderr
    # What was written comes first, the line that says so after it.
    json.JSONDecoder().raw_decode(told.stdout.decode())
    assert Path("/dev/stdout").is_symlink()
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with subprocess.Popen(["cat", str(pipe)], stdout=subprocess.PIPE) as reader:
        assert slmbench(*writing.format(run=run, out=pipe).split()).returncode == 0
        assert b'"case"' in reader.communicate(timeout=60)[0]
    assert stat.S_ISFIFO(pipe.stat().st_mode)


def test_standard_output_in_a_file_has_all_that_was_printed(run: Path, tmp_path: Path) -> None:
    """The file that output is redirected into is neither replaced nor written over from its start."""
    with (tmp_path / "told").open("wb") as file:
        file.write(b"before\n")
        file.flush()
        done = subprocess.run(
            [*SLMBENCH, "baseline", "save", str(run), "/dev/stdout"], stdout=file, timeout=60, check=False
        )
    assert done.returncode == 0
    text = (tmp_path / "told").read_text()
    assert text.startswith("before\n{")
    assert text.rstrip().splitlines()[-1].startswith("/dev/stdout: 2 cases")


def test_a_link_that_a_person_names_is_followed(run: Path, tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    for name, place in (("there", tmp_path / "kept" / "there.json"), ("new", tmp_path / "kept" / "new.json")):
        link = tmp_path / f"{name}.json"
        link.symlink_to(place)
        if name == "there":
            place.write_text("old")
            place.chmod(0o640)
        assert run_main(["baseline", "save", str(run), str(link)]) == 0
        assert link.is_symlink()
        assert json.loads(place.read_text())["kind"] == "slmbench baseline"
        assert run_main(["check", "--baseline", str(link), str(run)]) in (0, 4)
    assert stat.S_IMODE((tmp_path / "kept" / "there.json").stat().st_mode) == 0o640
    assert [path.name for path in (tmp_path / "kept").iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_the_umask_is_the_users(umask: int, run: Path, tmp_path: Path) -> None:
    told = slmbench("baseline", "save", run, tmp_path / "b.json", umask=umask)
    assert told.returncode == 0, told.stderr
    assert slmbench("table", run, "--write", umask=umask).returncode == 0
    for path in (tmp_path / "b.json", run / "table.md", run / "report.html"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~umask, path


@pytest.mark.slow
def test_an_artifact_is_as_open_as_any_folder(tmp_path: Path) -> None:
    """Of the user's umask: a cache that a team shares, or a service reads."""
    pytest.importorskip("openvino", reason="needs slmbench[cpu]")
    pytest.importorskip("torch", reason="needs slmbench[cpu]")
    told = slmbench("export", "mu-tiny", umask=0o022, env={**os.environ, "SLMBENCH_CACHE": str(tmp_path)})
    assert told.returncode == 0, told.stderr
    found = [path for path in tmp_path.rglob("*") if path.suffix != ".lock"]
    assert len(found) > 6
    for path in found:
        assert stat.S_IMODE(path.stat().st_mode) == (0o755 if path.is_dir() else 0o644), path


@pytest.mark.parametrize(
    "command",
    [
        "table {run}", "table {run} --json", "table {run} --write", "compare {run} {run}", "history {run} {run} --json",
        "baseline save {run} {place}/b.json", "check --baseline {run} {run} --junit {place}/j.xml --summary {place}/s",
        "table {run} --plots {place}/plots", "compare {run} {run} --format html --out {place}/c.html",
    ],
)  # fmt: skip
def test_a_path_of_any_bytes(command: str, run: Path, tmp_path: Path) -> None:
    place = tmp_path / BYTES
    place.mkdir()
    told = slmbench(*command.format(run=run.rename(place / BYTES), place=place).split())
    assert told.returncode in (0, 4), told.stderr
    for path in place.glob("*.*"):
        assert path.read_bytes().decode(), "what others read is UTF-8"


@pytest.mark.slow
def test_a_run_in_a_path_of_any_bytes(tmp_path: Path) -> None:
    """The run's folder and the cache: the path reaches the worker, the engine, ``run.json`` and a resumed run."""
    pytest.importorskip("openvino", reason="needs slmbench[cpu]")
    pytest.importorskip("torch", reason="needs slmbench[cpu]")
    place = tmp_path / BYTES
    keep_limits(place / "cache")
    environment = {**os.environ, "SLMBENCH_CACHE": str(place / "cache")}
    asked = ["run", "--model", "mu-tiny", "--backend", "openvino", *SMALL, "--out", str(place / "run")]
    told = slmbench(*asked, env=environment)
    assert told.returncode == 0, told.stderr
    assert len(read_run(place / "run").samples) >= 2
    lines = (place / "run" / SAMPLES_NAME).read_bytes().splitlines(keepends=True)
    (place / "run" / SAMPLES_NAME).write_bytes(b"".join(lines[:-1]))
    told = slmbench("run", "--resume", place / "run", env=environment)
    assert told.returncode == 0, told.stderr
    assert len(read_run(place / "run").samples) >= 2


def test_a_request_of_any_bytes_is_kept_as_it_was(run: Path) -> None:
    asked = RunRequest(models=(f"/models/{BYTES}",), prompts=Path(BYTES), devices=("cpu",))
    record = read_run_record(run / RUN_NAME)
    write_run(run, record.model_copy(update={"options": asked.model_dump(mode="json")}))
    kept = read_run_record(run / RUN_NAME).options
    assert request_from_file(kept, "run.json", RunRequest()) == asked
    with pytest.raises(BadInputError, match="never done because a file says so"):
        request_from_file({**kept, "trust_remote_code": True}, "run.json", RunRequest())


@pytest.fixture
def printing(tmp_path: Path) -> Path:
    """A site customisation that prints, as some clusters' do: no end of line, on both streams."""
    place = tmp_path / "site"
    place.mkdir()
    (place / "sitecustomize.py").write_text(
        "import sys\nprint('module loaded', end='', flush=True)\nprint('warning', file=sys.stderr)\n"
    )
    return place


@pytest.mark.slow
@pytest.mark.parametrize("shell", in_turn(["prints", "closes", "optimises"], 3))
def test_a_run_in_any_shell(shell: str, tmp_path: Path, printing: Path) -> None:
    """It measures, says so, and what was closed is nobody's file."""
    pytest.importorskip("openvino", reason="needs slmbench[cpu]")
    pytest.importorskip("torch", reason="needs slmbench[cpu]")
    how = {
        "prints": {"PYTHONPATH": os.pathsep.join([str(printing), os.environ.get("PYTHONPATH", "")])},
        "closes": {},
        "optimises": {"PYTHONOPTIMIZE": "2"},
    }[shell]
    asked = [*SLMBENCH, "run", "--model", "mu-tiny", "--backend", "openvino", *SMALL, "--out", str(tmp_path / "run")]
    if shell == "closes":
        asked = ["sh", "-c", 'exec "$@" <&- 2>&-', "sh", *asked]
    environment = os.environ | how
    if shell == "optimises":
        # An export as well: transformers is imported for it, and reads its own docstrings.
        keep_limits(tmp_path / "cache")
        environment |= {"SLMBENCH_CACHE": str(tmp_path / "cache")}
    done = subprocess.run(asked, env=environment, capture_output=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert b"mu-tiny" in done.stdout
    assert len(read_run(tmp_path / "run").samples) >= 2
    for line in (tmp_path / "run" / SAMPLES_NAME).read_bytes().splitlines():
        assert json.loads(line)


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_closed_stream_is_nobodys_file(closed: str, run: Path, tmp_path: Path) -> None:
    """The next file that is opened would get the stream's number, and every print would end in it."""
    command = [
        *SLMBENCH,
        "check",
        "--baseline",
        str(run),
        str(run),
        "--junit",
        str(tmp_path / "j.xml"),
        "--annotations",
    ]
    done = subprocess.run(
        ["sh", "-c", f'exec "$@" {closed}', "sh", *command], capture_output=True, timeout=60, check=False
    )
    assert done.returncode in (0, 4), done.stderr
    assert done.stderr == b""
    assert (tmp_path / "j.xml").read_text().rstrip().endswith("</testsuites>")


@contextmanager
def somebody_else() -> Iterator[None]:
    """Be a user who may not read everything, where the tests are run by root."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_permission_denied_is_no_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SLMBENCH_CACHE", str(tmp_path / "cache"))
    closed = write_artifact(checkpoint_elsewhere(tmp_path / "a"), {"model.xml": b"whole"}).folder
    # Once as the owner: what it imports may be in a folder that is closed to others.
    assert run_main(["cache", "verify"]) == 0
    assert run_main(["cache", "clean", "--damaged"]) == 0
    for folder in [tmp_path, *tmp_path.parents][:4]:
        folder.chmod(folder.stat().st_mode | 0o055)
    for path in (closed / "model.xml", closed):
        path.chmod(0)
        capsys.readouterr()
        with somebody_else():
            assert run_main(["cache", "verify"]) == 5
            told = capsys.readouterr()
            assert run_main(["cache", "clean", "--damaged"]) == 0
        assert "permission denied" in told.out.lower()
        assert "damaged" not in told.out + told.err
        assert "1 of 1 cannot be read by this user" in told.err
        assert "removed 0 artifacts" in capsys.readouterr().out
    closed.chmod(0o755)
    assert (closed / "model.xml").exists()


def test_samples_of_one_endless_line_take_no_memory(run: Path, tmp_path: Path) -> None:
    """A sparse file, as a damaged disk or a stranger leaves it: 200 GB on paper."""
    for name, content in {"hole": b"", "after": (run / SAMPLES_NAME).read_bytes()}.items():
        place = tmp_path / name
        place.mkdir()
        shutil.copy(run / RUN_NAME, place / RUN_NAME)
        with (place / SAMPLES_NAME).open("wb") as file:
            file.write(content)
            file.truncate(200_000_000_000)
        for command in (["table", str(place)], ["compare", str(place), str(run)]):
            told = slmbench(*command, preexec_fn=_little_memory)
            assert told.returncode == 2, told.stderr
            line = 1 + content.count(b"\n")
            assert f"{SAMPLES_NAME}:{line}: a line of more than {MOST_LINE_BYTES:,} bytes" in told.stderr.decode()


def _little_memory() -> None:
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (2_000_000_000, 2_000_000_000))
