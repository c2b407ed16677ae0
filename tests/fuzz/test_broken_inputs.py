"""Every broken input ends in one clear line, with the right exit code, soon, in little memory, with nothing written."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import corpus
import corpus_ctranslate2
import corpus_fleet
import corpus_given
import corpus_models
import psutil
import pytest
from corpus import Broken
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rotation import in_turn

from slmbench.cli import run_main
from slmbench.errors import ERROR_PREFIX

#: Seconds and bytes that no broken input may take; good ones of this size take tenths of both.
MOST_S = 30.0
MOST_BYTES = 300_000_000


def _baseline(folder: Path) -> Any:
    from slmbench.cli.baseline import save_named as save

    _write(folder, corpus.run_files())
    save(str(folder / "run"), folder / "baseline.json", ())
    return json.loads((folder / "baseline.json").read_bytes())


def _all() -> Iterator[Broken]:
    with TemporaryDirectory() as folder:
        good_baseline = _baseline(Path(folder))
        good_manifest = corpus.good_manifest(Path(folder) / "m")
    yield from chain(
        corpus.suites(),
        corpus.gates(),
        corpus.options(),
        corpus.runs(),
        corpus.samples(),
        corpus.baselines(good_baseline),
        corpus.manifests(good_manifest),
        corpus_models.configs(),
        corpus_models.weights(),
        corpus_models.tokenizers(),
        corpus_given.ggufs(),
        corpus_given.irs(),
        corpus_given.onnx_folders(),
        corpus_ctranslate2.ctranslate2_folders(),
        corpus_fleet.claims(),
        corpus_fleet.fleets(),
        corpus_fleet.fleet_options(),
        corpus_fleet.prompts(),
        corpus_fleet.plots(),
    )


def _write(folder: Path, files: dict[str, bytes]) -> None:
    # Longer names first: a file that must be a folder wins over the file of that name.
    for name in sorted(files, key=len, reverse=True):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.is_dir():
            path.write_bytes(files[name])


CORPUS = list(_all())


def _tree(folder: Path) -> dict[str, int]:
    return {str(path.relative_to(folder)): path.lstat().st_size for path in folder.rglob("*") if not path.is_dir()}


def _is_remembered(path: str) -> bool:
    """Return whether a file is what slmbench keeps about weights it has read whole, or a lock: no trace of an error."""
    return path.startswith(("cache/weights", "cache/digests", "cache/locks"))


def attack(case: Broken, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the command on the broken input and hold what it does against what is promised."""
    _write(folder, case.files)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("SLMBENCH_CACHE", str(folder / "cache"))
    if "fleet" in case.command or "--fleet" in case.command:
        pytest.importorskip("distributed", reason="the extra slmbench[fleet] is not installed")
        for module in ("connection", "dask_nodes"):
            monkeypatch.setattr(f"slmbench.fleet.{module}.CONNECT_S", 0.2)
    before, memory, begin = _tree(folder), psutil.Process().memory_info().rss, time.monotonic()
    code = run_main([argument.replace("{}", str(folder)) for argument in case.command])
    spent, grown = time.monotonic() - begin, psutil.Process().memory_info().rss - memory
    told = capsys.readouterr().err
    assert spent < MOST_S, f"{spent:.1f} s"
    assert grown < MOST_BYTES, f"{grown / 1e6:.0f} MB more"
    written = {name for name in _tree(folder).items() if not _is_remembered(name[0])} - set(before.items())
    assert not written
    if code == 0 or (case.may_pass and not told):
        assert case.may_pass, "it was taken for good"
        return
    assert code in case.codes or case.may_pass, (code, told)
    assert told.count(ERROR_PREFIX) == 1, told
    line = next(line for line in told.splitlines() if line.startswith(ERROR_PREFIX))
    assert case.may_pass or case.says in line, line
    assert all(c.isprintable() or c == "\n" for c in told), told
    assert "Traceback" not in told
    assert len(line) < 6000


def test_there_are_enough() -> None:
    assert len(CORPUS) >= 500
    assert sum(not case.may_pass for case in CORPUS) >= 500


@pytest.mark.parametrize("case", in_turn(CORPUS, 3), ids=lambda case: case.name.encode("unicode_escape").decode())
def test_one_line(
    case: Broken, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    attack(case, tmp_path, capsys, monkeypatch)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=12,
)
_FILES = ("run/run.json", "run/samples.jsonl", "baseline.json", "s.yaml", "gates.yaml", "m/config.json")
_COMMANDS = {
    "run/run.json": corpus.TABLE,
    "run/samples.jsonl": corpus.TABLE,
    "baseline.json": corpus.BASELINE_CHECK,
    "s.yaml": ("suites", "show", "{}/s.yaml"),
    "gates.yaml": ("check", "--baseline", "{}/run", "{}/run", "--gates", "{}/gates.yaml"),
    "m/config.json": corpus_models.EXPLAIN,
}


@settings(max_examples=150, suppress_health_check=list(HealthCheck))
@given(which=st.sampled_from(_FILES), content=_JSON.map(corpus.text) | st.binary(max_size=60))
def test_what_nobody_thought_of(
    which: str,
    content: bytes,
    tmp_path_factory: pytest.TempPathFactory,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    files = {**corpus.run_files(), **corpus_models.checkpoint_files(), which: content + b"\n"}
    case = Broken("drawn", _COMMANDS[which], files, may_pass=True)
    attack(case, tmp_path_factory.mktemp("drawn"), capsys, monkeypatch)
