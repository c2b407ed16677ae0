"""Every string that a stranger may choose, in everything that is printed or written: it steers nothing."""

from __future__ import annotations

import csv
import io
import json
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from folders import make_folder
from synthetic import MACHINE, Made, Speed, make_run

from slmbench._version import __version__
from slmbench.cli import run_main
from slmbench.fleet.messages import About
from slmbench.fleet.record import FleetRecord, Member, NotRun, machine_folder
from slmbench.machine.fingerprint import Fingerprint
from slmbench.models.artifact import MANIFEST_NAME, ArtifactSpec, Manifest
from slmbench.models.checkpoint import checkpoint_of_folder
from slmbench.plan.request import RunRequest
from slmbench.records.schema import FLEET_NAME, Claim, FailureReason, FailureRecord

#: A title, a clear screen in C1, a link of terminals, bidirectional text, HTML, Markdown, rich's markup.
ESCAPES = "\x1b]0;owned\x07\x9b2J\x1b]8;;http://x\x1b\\\u202e"
HOSTILE = f"{ESCAPES}<script>alert(1)</script>|[x](javascript:alert(1))[link=http://x][/nope][blink]"
FORBIDDEN = {"\x1b", "\x07", "\x9b", "\u202e", "\x08"}


def hostile_run(seed: int = 0) -> Made:
    """A run in which every string is hostile that a run's files hold."""
    families: tuple[Any, ...] = ("encoder-decoder", "decoder-only")
    speeds = [
        Speed(model=f"{HOSTILE} {family}", family=family, engine=HOSTILE, attention=HOSTILE, options=(("o", HOSTILE),))
        for family in families
    ]
    made = make_run(speeds, run_id=HOSTILE, seed=seed)
    record = made.record.model_copy(
        update={
            "versions": {HOSTILE: {HOSTILE: HOSTILE}}, "command": (HOSTILE,), "suite": HOSTILE,
            "pairs": ((speeds[0].model, speeds[1].model),),
            "claims": (
                Claim(says=HOSTILE, metric="ttft", speedup=2.0, source=HOSTILE, note=HOSTILE,
                      figures_ms={HOSTILE: 1.0}, figures_of=speeds[0].model),
            ),
        }
    )  # fmt: skip
    failed = FailureRecord(
        case=speeds[1].case.key, reason=FailureReason.ERROR, message=HOSTILE, log_tail=f"{HOSTILE}\n{HOSTILE}"
    )
    return replace(made, record=record, lines=[*made.lines, failed])


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two hostile runs, a fleet's, a suite, a checkpoint, and a cache with an artifact."""
    folder = tmp_path_factory.mktemp("hostile")
    for number in range(2):
        hostile_run(number).write(folder / f"run{number}")
    good = make_run([Speed(model="a"), Speed(model="b", family="encoder-decoder")])
    good.write(folder / "good")
    _fleet(folder / "fleet")
    text = json.dumps(HOSTILE)
    (folder / "s.yaml").write_text(
        f"name: mine\ndescription: {text}\ncheckpoints: [mu-tiny]\nbackends: [onnxruntime]\nworkloads:\n"
        "  - input_tokens: [16]\n    output_tokens: [4]\n"
        f"claims:\n  - {{says: {text}, metric: ttft, speedup: 2, source: {text}, note: {text}}}\n",
        encoding="utf-8",
    )
    model = make_folder(folder / "model")
    config = json.loads((model / "config.json").read_bytes())
    (model / "config.json").write_text(json.dumps({**config, "_name_or_path": HOSTILE, HOSTILE: HOSTILE}))
    hostile_config = {**config, "model_type": HOSTILE, "architectures": [HOSTILE]}
    (make_folder(folder / "strange") / "config.json").write_text(json.dumps(hostile_config))
    _artifact(folder)
    return folder


def _fleet(folder: Path) -> None:
    made = hostile_run()
    fingerprint = Fingerprint.model_validate(
        {
            "hardware": {
                "cpu_model": HOSTILE, "physical_cores": 2, "logical_cores": 2, "memory_gib": 4, "os": HOSTILE,
                "arch": HOSTILE, "governor": HOSTILE, "hypervisor": HOSTILE, "cpu_flags": (HOSTILE,),
            },
            "software": {"engines": {"openvino": HOSTILE}, "environment": {HOSTILE: HOSTILE}},
        }
    )  # fmt: skip
    members = {}
    keys = tuple(info.case.key for info in made.record.cases)
    for name in ("one", "two"):
        made.write(machine_folder(folder, name) / "1")
        about = About(slmbench_version=__version__, name=name, fingerprint=fingerprint, devices=(), busy=HOSTILE)
        members[name] = Member(about=about, keys=keys, left_out=(HOSTILE,), outcome=HOSTILE)
    lost = NotRun(machines=("one",), keys=(HOSTILE,), reason=HOSTILE)
    record = FleetRecord(run_id="f" * 8, request=RunRequest(suite=HOSTILE), machines=members, not_run=(lost,))
    (folder / FLEET_NAME).write_text(record.model_dump_json(), encoding="utf-8")


def _artifact(folder: Path) -> None:
    checkpoint = checkpoint_of_folder(folder / "model").model_copy(update={"name": HOSTILE})
    spec = ArtifactSpec(format="onnx")
    manifest = Manifest(
        artifact_id=spec.artifact_id(checkpoint.digest), spec=spec, checkpoint=checkpoint,
        graphs={"model": "model.onnx"}, files=(), attention=HOSTILE, decode_weight_bytes=1,
        versions={HOSTILE: HOSTILE}, created=HOSTILE, export_seconds=1.0,
    )  # fmt: skip
    into = folder / "cache" / "artifacts" / manifest.artifact_id
    into.mkdir(parents=True)
    (into / MANIFEST_NAME).write_text(manifest.model_dump_json(), encoding="utf-8")


def steers(text: str) -> set[str]:
    """Return what a terminal would obey in a text."""
    return FORBIDDEN & set(text)


COMMANDS = [
    "table run0", "table run0 --markdown", "table fleet", "table fleet --markdown", "compare run0 run1",
    "compare run0 run1 --format markdown", "compare run0 run1 --format html", "compare run0 run1 --format csv",
    "compare run0 good --allow-different-machine", "compare fleet", "compare fleet --format markdown",
    "compare fleet --format html", "compare fleet --format csv", "compare fleet run0 --by-machine",
    "check --baseline run0 run1", "check --baseline run0 run1 --annotations", "check --baseline fleet fleet",
    "check --baseline good run0", "history run0 run1", "baseline save run0 b.json", "cache list",
    "cache verify", "suites show s.yaml", "run --suite s.yaml --dry-run", "explain strange",
    "explain model --input-tokens 8 --output-tokens 8",
    "run --model model --backend onnxruntime --dry-run", "run --model strange --dry-run", "table run0 --plots p",
    "table run0 --format bencher", "table run0 --format github-smaller",
]  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS)
def test_nothing_steers_a_terminal(
    command: str, place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    monkeypatch.setenv("SLMBENCH_CACHE", str(place / "cache"))
    # As a terminal would be served: what rich makes of it itself is left out by this.
    monkeypatch.setenv("NO_COLOR", "1")
    run_main(command.split())
    told = capsys.readouterr()
    assert not steers(told.out), ascii(told.out)
    assert not steers(told.err), ascii(told.err)
    if any(kind in command for kind in ("markdown", "html")):
        assert "<script>alert" not in told.out
        # Of a page it is text; of Markdown a link.
        assert "](javascript" not in told.out or "html" in command


def test_no_spreadsheet_calculates_with_a_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = ["=HYPERLINK(1)", "+1", "-2+3", "@SUM(1)", "\t=1", "\x0b=2"]
    speeds = [Speed(model=name) for name in names]
    runs = [str(make_run(speeds, seed=seed).write(tmp_path / f"run{seed}")) for seed in range(2)]
    made = make_run(speeds)
    about = About(slmbench_version=__version__, name="one", fingerprint=Fingerprint.model_validate(MACHINE), devices=())
    fleet = tmp_path / "fleet"
    made.write(machine_folder(fleet, "one") / "1")
    member = Member(about=about, keys=tuple(info.case.key for info in made.record.cases))
    record = FleetRecord(run_id="f" * 8, request=RunRequest(), machines={"one": member})
    (fleet / FLEET_NAME).write_text(record.model_dump_json(), encoding="utf-8")
    for command in (["table", runs[0], "--write"], ["table", str(fleet), "--write"]):
        assert run_main(command) == 0
    texts = [(Path(folder) / "table.csv").read_text(encoding="utf-8") for folder in (runs[0], fleet)]
    for command in (["compare", *runs, "--format", "csv"], ["compare", str(fleet), "--format", "csv"]):
        capsys.readouterr()
        run_main(command)
        texts.append(capsys.readouterr().out)
    for text in texts:
        cells = [cell for row in csv.DictReader(io.StringIO(text)) for cell in row.values()]
        assert {f"'{name.strip()}" for name in names} <= set(cells)
        assert not [cell for cell in cells if cell[:1] in tuple("=+@") or (cell[:1] == "-" and not cell[1:2].isdigit())]


def test_what_is_written_steers_no_browser_and_no_reader(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    for command in ("table run0 --write", "table fleet --write",
                    "check --baseline run0 run1 --junit j.xml --summary s.md",
                    "compare run0 run1 --format html --out c.html"):  # fmt: skip
        run_main(command.split())
    capsys.readouterr()
    written = [path for pattern in ("*.md", "*.html") for path in place.rglob(pattern)]
    assert len(written) >= 6
    for path in written:
        text = path.read_text(encoding="utf-8")
        assert not steers(text), path
        assert "<script>alert" not in text, path
        assert "](javascript" not in text or path.suffix == ".html", path
    assert not steers((place / "j.xml").read_text(encoding="utf-8"))
    assert list(ET.parse(place / "j.xml").iter("testcase"))
