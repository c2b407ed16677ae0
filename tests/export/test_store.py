"""The artifact store: found or exported once, whole or exported again, never half-written."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from filelock import FileLock
from rotation import tiny_models

from slmbench import __version__
from slmbench.errors import BadInputError, CannotRunError
from slmbench.export import build
from slmbench.export import routes as support
from slmbench.export.artifact_store import (
    artifacts_dir,
    find_artifact,
    list_artifacts,
    move_into_place,
    remove,
    select,
)
from slmbench.export.build import ensure_artifact
from slmbench.export.golden_record import make_golden
from slmbench.export.routes import choose_route, make_spec
from slmbench.export.torch_model import load_model
from slmbench.models.artifact import GOLDEN_NAME, MANIFEST_NAME, Artifact, ArtifactSpec, damage, read_artifact
from slmbench.models.checkpoint import Checkpoint, resolve
from slmbench.system.locks import in_use

pytest.importorskip("torch")
SPEC = ArtifactSpec(format="torch", exporter="none")


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache with one artifact; tests work on copies."""
    cache = tmp_path_factory.mktemp("exported")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLMBENCH_CACHE", str(cache))
        ensure_artifact(resolve("llama-tiny"), SPEC, progress=lambda _: None)
    return cache


@pytest.fixture
def cache(exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(exported, tmp_path / "cache")
    monkeypatch.setenv("SLMBENCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def checkpoint() -> Checkpoint:
    return resolve("llama-tiny")


class Said(list[str]):
    """Progress lines as they come."""

    def __call__(self, line: str) -> None:
        self.append(line)

    def has(self, part: str) -> bool:
        return any(part in line for line in self)


def _weights(artifact: Artifact) -> Path:
    return artifact.folder / "model.safetensors"


def test_an_artifact_has_all_it_needs(cache: Path, checkpoint: Checkpoint) -> None:
    artifact = find_artifact(checkpoint, SPEC)
    assert artifact is not None
    assert artifact.folder == cache / "artifacts" / SPEC.artifact_id(checkpoint.digest)
    assert {entry.path for entry in artifact.manifest.files} == {GOLDEN_NAME, "config.json", "model.safetensors"}
    assert damage(artifact) is None
    assert artifact.manifest.checkpoint == checkpoint
    assert {"slmbench", "torch", "transformers"} <= artifact.manifest.versions.keys()
    golden = artifact.golden()
    assert [len(prompt.input_ids) for prompt in golden.prompts] == [48, 29]
    assert all(len(prompt.tokens) == len(prompt.margins) == 24 for prompt in golden.prompts)
    # Everything but the embedding's unread rows is read in a decode step; norms are under 1 %.
    assert artifact.manifest.decode_weight_bytes == pytest.approx(4 * checkpoint.parameter_count, rel=0.01)


def test_the_stored_artifact_is_used(cache: Path, checkpoint: Checkpoint) -> None:
    said = Said()
    before = (artifacts_dir() / SPEC.artifact_id(checkpoint.digest)).stat().st_ino
    artifact = ensure_artifact(checkpoint, SPEC, progress=said)
    assert said == []
    assert artifact.folder.stat().st_ino == before


def test_the_reference_runs_once_for_all_formats(cache: Path, checkpoint: Checkpoint) -> None:
    spec = SPEC.model_copy(update={"weight_precision": "fp16"})
    said = Said()
    half = ensure_artifact(checkpoint, spec, progress=said)
    assert said.has("drawing the weights")
    assert not said.has("reference")
    full = find_artifact(checkpoint, SPEC)
    assert full is not None
    assert half.golden() == full.golden()
    # A record of other versions, or a damaged one, is made again.
    (kept,) = (cache / "golden").iterdir()
    for text in (kept.read_text().replace('"torch":"', '"torch":"0.'), "{"):
        kept.write_text(text)
        ensure_artifact(checkpoint, SPEC, progress=said, force=True)
        assert said.has("loading the reference")
        said.clear()
        assert kept.read_text() == full.golden().model_dump_json()


def test_force_exports_anew(cache: Path, checkpoint: Checkpoint) -> None:
    said = Said()
    before = find_artifact(checkpoint, SPEC)
    artifact = ensure_artifact(checkpoint, SPEC, progress=said, force=True)
    assert said.has("drawing the weights")
    assert before is not None
    assert {e.path: e.sha256 for e in artifact.manifest.files} == {e.path: e.sha256 for e in before.manifest.files}
    assert [stored.problem for stored in list_artifacts()] == [None]


@pytest.mark.parametrize("kind", ["changed", "truncated", "removed", "manifest"])
def test_a_damaged_artifact_is_exported_anew(cache: Path, checkpoint: Checkpoint, kind: str) -> None:
    artifact = find_artifact(checkpoint, SPEC)
    assert artifact is not None
    weights, manifest = _weights(artifact), artifact.folder / MANIFEST_NAME
    if kind == "changed":
        content = bytearray(weights.read_bytes())
        content[-1] ^= 1
        weights.write_bytes(content)
        # The hash was looked at once in this process: as a new process would, look again.
        os.utime(manifest, ns=(0, manifest.stat().st_mtime_ns + 1_000_000))
    elif kind == "truncated":
        os.truncate(weights, 1000)
    elif kind == "removed":
        weights.unlink()
    else:
        manifest.write_text("{")
    said = Said()
    whole = ensure_artifact(checkpoint, SPEC, progress=said)
    assert said.has("damaged")
    assert said.has("exporting again")
    assert damage(whole) is None


def test_an_artifact_of_another_version_is_exported_anew(
    cache: Path, checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(support, "__version__", "99.0")
    said = Said()
    assert find_artifact(checkpoint, SPEC, note=said) is None
    assert said == [f"the stored artifact was made by slmbench {__version__}, now 99.0; exporting again"]
    assert ensure_artifact(checkpoint, SPEC, progress=said).manifest.versions["slmbench"] == "99.0"


def test_without_exporters_the_given_artifact_is_used(
    cache: Path, checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifact = find_artifact(checkpoint, SPEC)
    assert artifact is not None
    manifest = artifact.manifest.model_copy(
        update={"spec": ArtifactSpec(format="openvino"), "versions": {"slmbench": "0.0", "torch": "1.0"}}
    )
    assert support.outdated(manifest) is not None
    monkeypatch.setattr(support, "installed_versions", lambda: {"slmbench": "0.1.0"})
    assert support.outdated(manifest) is None


@pytest.mark.parametrize("error", [KeyboardInterrupt, CannotRunError])
def test_an_interrupted_export_leaves_nothing(
    cache: Path, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    def half(*_: object) -> None:
        (next(artifacts_dir().glob(".writing-*")) / "model.safetensors").write_text("half")
        raise error

    monkeypatch.setattr("slmbench.export.torch.write", half)
    before = sorted(artifacts_dir().iterdir())
    with pytest.raises(error):
        ensure_artifact(resolve("qwen3-tiny"), SPEC, progress=Said())
    assert sorted(artifacts_dir().iterdir()) == before


def test_what_a_run_measures_is_not_replaced(cache: Path, checkpoint: Checkpoint) -> None:
    """Its later loads would be of another artifact under the same name."""
    before = ensure_artifact(checkpoint, SPEC, progress=lambda _: None)
    with in_use([before.folder.name]), pytest.raises(CannotRunError, match="another slmbench measures it"):
        ensure_artifact(checkpoint, SPEC, progress=lambda _: None, force=True)
    assert read_artifact(before.folder).stamp == before.stamp
    # A run that begins while the export is under way, too.
    fresh = before.folder.with_name("fresh")
    fresh.mkdir()
    with in_use([before.folder.name]), pytest.raises(CannotRunError, match="another slmbench measures it"):
        move_into_place(fresh, before.folder)
    assert read_artifact(before.folder).stamp == before.stamp
    assert ensure_artifact(checkpoint, SPEC, progress=lambda _: None, force=True).stamp != before.stamp


def test_a_file_that_changes_after_it_was_hashed_is_hashed_again(cache: Path, checkpoint: Checkpoint) -> None:
    artifact = ensure_artifact(checkpoint, SPEC, progress=lambda _: None)
    assert find_artifact(checkpoint, SPEC) is not None
    path = artifact.folder / "config.json"
    path.write_bytes(path.read_bytes().replace(b"1", b"2"))
    told: list[str] = []
    assert find_artifact(checkpoint, SPEC, note=told.append) is None
    assert "config.json was changed after it was written" in told[0]


def test_leftovers_of_a_killed_export_are_swept(cache: Path, checkpoint: Checkpoint) -> None:
    leftover = artifacts_dir() / f".writing-{SPEC.artifact_id(checkpoint.digest)}-abc"
    leftover.mkdir()
    assert [stored.problem for stored in list_artifacts()].count("unfinished export") == 1
    ensure_artifact(checkpoint, SPEC, progress=Said(), force=True)
    assert not leftover.exists()


def test_what_another_process_writes_is_not_removed(cache: Path, checkpoint: Checkpoint) -> None:
    folder = artifacts_dir() / f".writing-{SPEC.artifact_id(checkpoint.digest)}-abc"
    folder.mkdir()
    (written,) = [stored for stored in list_artifacts() if stored.unfinished]
    with FileLock(written.lock):
        assert remove([written]) == []
        assert folder.exists()
    assert remove([written]) == [written]
    assert not folder.exists()


@pytest.mark.slow
def test_of_two_processes_one_exports_and_one_waits(tmp_path: Path) -> None:
    code = (
        "import json; from slmbench.models.checkpoint import resolve; "
        "from slmbench.models.artifact import ArtifactSpec;"
        "from slmbench.export.build import ensure_artifact; said = [];"
        "a = ensure_artifact(resolve('t5-tiny'), ArtifactSpec(format='torch', exporter='none'), progress=said.append);"
        "print(json.dumps([str(a.folder), said]))"
    )
    environment = os.environ | {"SLMBENCH_CACHE": str(tmp_path)}
    running = [
        subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE) for _ in range(2)
    ]
    outputs = [json.loads(process.communicate(timeout=300)[0]) for process in running]
    assert outputs[0][0] == outputs[1][0]
    exports = [any("drawing" in line for line in said) for _, said in outputs]
    waits = [any("waiting" in line for line in said) for _, said in outputs]
    assert sorted(exports) == [False, True]
    assert sorted(waits) == [False, True]
    assert exports != waits


def test_too_little_memory_is_told_with_figures(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = psutil.virtual_memory()._replace(available=10**9)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    with pytest.raises(CannotRunError, match=r"mistral-7b \(7242M parameters\).* 29\.8 GB of memory, 1\.0 GB"):
        ensure_artifact(resolve("mistral-7b"), SPEC, progress=Said())


def test_too_little_disk_is_told_with_figures(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    artifacts_dir().mkdir(parents=True, exist_ok=True)
    usage = shutil.disk_usage(artifacts_dir())._replace(free=10**6)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    reason = build.resources_refusal(resolve("smollm2-135m"), SPEC) or ""
    assert re.search(r"0\.5 GB of disk, .* 0\.0 GB free", reason), reason


def test_list_select_and_remove(cache: Path, checkpoint: Checkpoint) -> None:
    (stored,) = list_artifacts(hashes=True)
    assert stored.problem is None
    assert stored.summary()["checkpoint"] == "llama-tiny"
    assert select([stored.folder.name[:6]]) == [stored]
    assert select([], damaged=True) == []
    longer = stored.folder.with_name(f"{stored.folder.name}-old")
    shutil.copytree(stored.folder, longer)
    # A whole id is that artifact, also where another begins with it.
    assert [one.folder for one in select([stored.folder.name])] == [stored.folder]
    shutil.rmtree(longer)
    with pytest.raises(BadInputError, match="fits 0 artifacts"):
        select(["zzz"])
    with pytest.raises(BadInputError, match="say what to remove"):
        select([])
    (stored.folder / "config.json").write_text("{}")
    (broken,) = select([], damaged=True)
    assert broken.problem is not None
    assert "config.json" in broken.problem
    assert remove([broken]) == [broken]
    assert list_artifacts() == []


def test_a_local_checkpoint_is_linked_not_copied(cache: Path, checkpoint: Checkpoint, tmp_path: Path) -> None:
    """An exported torch artifact is itself a Hugging Face folder; exported again, its bytes are shared."""
    stored = find_artifact(checkpoint, SPEC)
    assert stored is not None
    folder = tmp_path / "local"
    folder.mkdir()
    for name in ("config.json", "model.safetensors"):
        shutil.copy(stored.folder / name, folder / name)
    local = resolve(str(folder))
    assert local.parameter_count == checkpoint.parameter_count
    assert local.geometry == checkpoint.geometry
    again = ensure_artifact(local, SPEC, progress=Said())
    assert again.folder != stored.folder
    assert _weights(again).samefile(folder / "model.safetensors")
    assert [p.tokens for p in again.golden().prompts] == [p.tokens for p in stored.golden().prompts]


@pytest.mark.slow
@pytest.mark.parametrize("name", tiny_models())
def test_written_weights_are_a_checkpoint_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """What the torch route writes can be read as a folder: same sizes, ties, special tokens and answers."""
    monkeypatch.setenv("SLMBENCH_CACHE", str(tmp_path / "cache"))
    checkpoint = resolve(name)
    written = ensure_artifact(checkpoint, SPEC, progress=Said())
    local = resolve(str(written.folder))
    assert local.parameter_count == checkpoint.parameter_count
    for field in ("family", "architecture", "geometry", "eos_token_ids", "pad_token_id", "decoder_start_token_id"):
        assert getattr(local, field) == getattr(checkpoint, field), field
    golden = make_golden(load_model(local), local)
    assert [prompt.tokens for prompt in golden.prompts] == [prompt.tokens for prompt in written.golden().prompts]


def test_half_precision_halves_the_weights(cache: Path, checkpoint: Checkpoint) -> None:
    half = ensure_artifact(
        checkpoint, ArtifactSpec(format="torch", exporter="none", weight_precision="bf16"), progress=Said()
    )
    full = find_artifact(checkpoint, SPEC)
    assert full is not None
    assert _weights(half).stat().st_size == pytest.approx(_weights(full).stat().st_size / 2, rel=0.01)
    assert half.manifest.decode_weight_bytes * 2 == full.manifest.decode_weight_bytes


def test_torch_has_no_int8() -> None:
    checkpoint = resolve("llama-tiny")
    with pytest.raises(CannotRunError, match="no int8 weights"):
        ensure_artifact(checkpoint, make_spec(checkpoint, "torch", "int8"), progress=Said())
    assert choose_route("torch", [resolve("llama-tiny")], "fp32").exporter == "none"


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({"exporter": "onnxx"}, "unknown exporter 'onnxx'"),
        ({"layout": "static"}, "needs its bounds"),
        ({"input_tokens": 5}, "dynamic one has no bounds"),
        ({"soc": "sm8550"}, "needs --target qnn"),
    ],
)
def test_specs_that_make_no_sense(options: dict[str, str], part: str) -> None:
    with pytest.raises(BadInputError, match=part):
        make_spec(resolve("llama-tiny"), "onnx", "fp32", **options)  # type: ignore[arg-type]
