"""An exported model on disk: what is in it, and whether it is still what was written.

An artifact is a folder: graphs, weights, ``golden.json`` and ``manifest.json``, which is written last. Nothing
here imports torch or an engine: the base install reads and checks artifacts that another machine exported.
"""

from __future__ import annotations

import hashlib
import json
import stat
from dataclasses import dataclass, field, replace
from pathlib import Path, PureWindowsPath
from typing import Annotated, Literal, Self

from pydantic import Field, ValidationError, model_validator

from slmbench.errors import BadInputError, one_line
from slmbench.models.checkpoint import Checkpoint
from slmbench.models.given_record import GivenLayout
from slmbench.models.picture_processor import PROCESSOR_FILES
from slmbench.system.digests import sha256_of, sha256_remembered
from slmbench.system.files import read_regular
from slmbench.system.paths import cache_dir
from slmbench.terms import GGUF_PRECISIONS, Exporter, Format, Layout, Precision, StrictModel, plain_precision

MANIFEST_NAME = "manifest.json"
GOLDEN_NAME = "golden.json"
SCHEMA_VERSION = 1

#: What a graph does. `model`: a decoder-only network, prompt and steps. `encoder`: input ids to all cross K/V.
#: `decoder`: one decoder step over self and cross K/V. `decode`: the one-token graph of a static decoder-only.
#: `vision`: pixels to `image_features` [rows, width], which `model` or `encoder` takes where ids are the image token.
#: `embedding`: ids to the rows that `model` takes instead of ids, where an exporter makes that a graph of its own.
Role = Literal["model", "encoder", "decoder", "decode", "vision", "embedding"]


#: Tokens of a golden prompt, or of its answer; far more than is ever written, and few enough to be proven soon.
_MOST_GOLDEN_TOKENS = 4096
_Ids = Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1, max_length=_MOST_GOLDEN_TOKENS)]


def expected_weight_bytes(precision: Precision) -> float:
    """Return about how many bytes a weight takes on disk, scales of groups included."""
    if precision in GGUF_PRECISIONS:
        # A model whose rows do not fit the blocks of 4-bit types has more bits.
        return 1.1 if plain_precision(precision) == "int8" else 0.8
    return {"fp32": 4.0, "fp16": 2.0, "bf16": 2.0, "int8": 1.1, "int4": 0.7}[plain_precision(precision)]


class ArtifactSpec(StrictModel):
    """What is asked of an export; together with the checkpoint's digest it names one artifact."""

    format: Format
    layout: Layout = "dynamic"
    weight_precision: Precision = "fp32"
    exporter: Exporter = "slmbench"
    #: Static layout only: the bounds that the graphs were built for.
    input_tokens: int | None = None
    output_tokens: int | None = None
    #: An engine a graph was made for when the format alone does not say it ("qnn").
    target: str | None = None
    #: How weights are quantised, where that is not slmbench's plain way (see :mod:`slmbench.export.recipes`).
    recipe: str | None = Field(default=None, max_length=200)
    #: Whether pictures go in before the text; else an artifact is of the text part alone.
    pictures: bool = False

    def artifact_id(self, checkpoint_digest: str) -> str:
        """Return the store's folder name for this spec of the checkpoint with that digest."""
        # Artifacts without a recipe or pictures keep the names that they had before there were any.
        unasked = {name for name in ("recipe", "pictures") if getattr(self, name) in (None, False)}
        asked = self.model_dump(mode="json", exclude=unasked)
        key = json.dumps([SCHEMA_VERSION, checkpoint_digest, asked], sort_keys=True)
        return hashlib.sha256(key.encode()).hexdigest()[:32]

    def label(self) -> str:
        """Return a short human name: ``openvino fp32 (slmbench)``."""
        bounds = f" {self.input_tokens}+{self.output_tokens}" if self.layout == "static" else ""
        more = f"{', static' + bounds if bounds else ''}{', ' + self.recipe if self.recipe else ''}"
        more += ", pictures" if self.pictures else ""
        return f"{self.format} {self.weight_precision} ({self.exporter}{more})"


def given_specs(checkpoint: Checkpoint, *layouts: GivenLayout) -> list[ArtifactSpec]:
    """Return the one spec of an artifact that the user brings, where it has one of these layouts."""
    given = checkpoint.given
    if given is None or given.layout not in layouts:
        return []
    return [ArtifactSpec(format=given.format, weight_precision=given.precision, exporter="given")]


class GoldenPicture(StrictModel):
    """A picture that anybody can draw again (see :func:`slmbench.measure.pictures.drawn`); sizes in pixels."""

    seed: int = Field(ge=0)
    width: int = Field(gt=0, le=4096)
    height: int = Field(gt=0, le=4096)


class GoldenPrompt(StrictModel):
    """A prompt and what the reference (torch, fp32, eager) makes of it greedily, EOS suppressed."""

    input_ids: _Ids
    #: Before the text: their features stand where ``input_ids`` has the image token.
    pictures: tuple[GoldenPicture, ...] = Field(default=(), max_length=8)
    tokens: _Ids
    #: Per token: top-1 minus top-2 logit, in units of the standard deviation of that position's logits.
    margins: tuple[float, ...]

    @model_validator(mode="after")
    def _margins_are_of_tokens(self) -> Self:
        if len(self.margins) != len(self.tokens):
            raise ValueError(f"{len(self.margins)} margins of {len(self.tokens)} tokens")
        return self


class GoldenRecord(StrictModel):
    """The reference's answers, stored with every artifact."""

    prompts: tuple[GoldenPrompt, ...]
    #: Versions of torch and transformers that made the record.
    versions: dict[str, str]


class FileEntry(StrictModel):
    """One file of an artifact; ``path`` is relative to its folder, with forward slashes."""

    path: str
    size_bytes: int
    sha256: str


class StoredWeights(StrictModel):
    """What an artifact's weights are stored in, counted from its files."""

    #: Bits of a weight on average, scales and zero points of groups included.
    bits: float = Field(gt=0, le=64)
    #: Each type of weights, in its format's words ("Q4_K", "i4", "float32"), to its share of all weights.
    types: dict[str, float]
    #: Tensors that are stored in another type than was asked for, for their rows do not fit its blocks.
    fallbacks: int = Field(default=0, ge=0)

    def label(self) -> str:
        """Return the types with their shares, largest first: ``Q4_K 61 %, Q6_K 39 %``."""
        largest_first = sorted(self.types.items(), key=lambda one: -one[1])
        return ", ".join(f"{name} {share:.0%}" for name, share in largest_first if share >= 0.005)


class Manifest(StrictModel):
    """What an artifact is and how it was made."""

    schema_version: int = SCHEMA_VERSION
    artifact_id: str
    spec: ArtifactSpec
    checkpoint: Checkpoint
    #: Role of each graph to its file, relative to the folder.
    graphs: dict[Role, str]
    files: tuple[FileEntry, ...]
    #: How the graph expresses attention: "SDPA, stateful", "GroupQueryAttention", ...
    attention: str
    #: Proof that no decoder step computes cross-attention K/V: MatMuls by source (see export/inspect).
    #: None for decoder-only.
    cross_kv_once: bool | None = None
    #: Bytes of weights that one decode step reads (decoder and LM head; of an embedding only the rows used). None
    #: where that is not known, as of a mixture of experts.
    decode_weight_bytes: int | None
    #: What a recipe came down to: its configuration, and the text that it was calibrated with.
    recipe: dict[str, str] = Field(default_factory=dict)
    #: None in artifacts of versions before 0.3.
    weights: StoredWeights | None = None
    versions: dict[str, str]
    created: str
    export_seconds: float


#: In the folder of an artifact that the user brings: where its files are. They are never copied.
PLACE_NAME = "place.json"


@dataclass(frozen=True)
class Artifact:
    """A manifest together with the folder it was read from."""

    folder: Path
    manifest: Manifest
    #: What its files were like when the manifest was read: another one, and something was changed since. Empty where
    #: it was not read from a folder.
    stamp: str = field(default="", compare=False)
    #: Where its files are, if not next to the manifest: the user's own folder.
    elsewhere: Path | None = None

    @property
    def home(self) -> Path:
        """Return the folder of its files."""
        return self.elsewhere or self.folder

    @property
    def processor_home(self) -> Path:
        """Return the folder that says how pictures are prepared: the manifest's, where it does, else the files'."""
        return self.folder if any((self.folder / name).is_file() for name in PROCESSOR_FILES) else self.home

    @property
    def has_golden(self) -> bool:
        """Return whether there is a reference to compare tokens with: not every given artifact has one."""
        return self.manifest.checkpoint.given is None or (self.folder / GOLDEN_NAME).is_file()

    def graph(self, role: Role) -> Path:
        """Return the path of the graph with that role.

        Raises:
            BadInputError: the artifact has no such graph.
        """
        try:
            return self.home / self.manifest.graphs[role]
        except KeyError:
            raise BadInputError(f"{self.home}: the artifact has no graph '{role}'") from None

    def with_ends(self) -> Artifact:
        """Return the artifact as one whose checkpoint names no end of sequence, so that a session suppresses none.

        Sessions suppress the ends that the checkpoint names, and no other token. Where a backend can do "ends", a
        session over this artifact gives an end like any token, and whoever drives it stops there.
        """
        checkpoint = self.manifest.checkpoint.model_copy(update={"eos_token_ids": ()})
        return replace(self, manifest=self.manifest.model_copy(update={"checkpoint": checkpoint}))

    def golden(self) -> GoldenRecord:
        """Read the golden record.

        Raises:
            BadInputError: it is missing or damaged.
        """
        path = self.folder / GOLDEN_NAME
        try:
            record = GoldenRecord.model_validate_json(read_regular(path))
        except (OSError, ValidationError) as error:
            raise BadInputError(f"{path}: not a golden record: {_first_line(error)}") from error
        # Some engines answer an id beyond the vocabulary with whatever memory comes after their table.
        vocabulary = self.manifest.checkpoint.geometry.vocab_size
        largest = max((max(*one.input_ids, *one.tokens) for one in record.prompts), default=0)
        if largest >= vocabulary:
            raise BadInputError(f"{path}: not a golden record: token {largest} of a vocabulary of {vocabulary}")
        return record

    def size_bytes(self) -> int:
        """Return the size of all its files together."""
        return sum(entry.size_bytes for entry in self.manifest.files)


def read_artifact(folder: Path) -> Artifact:
    """Read ``manifest.json`` in ``folder`` without hashing the files.

    Raises:
        BadInputError: no manifest, one that is damaged or of another schema version, or a link out of the folder.
    """
    path = folder / MANIFEST_NAME
    try:
        # First: what changes from here on is not in it.
        state = "" if folder.parent == given_dir() else _state_of(folder)
        raw = read_regular(path)
    except OSError as error:
        raise BadInputError(f"{path}: not an artifact manifest: {_first_line(error)}") from error
    manifest = parse_manifest(raw, str(path))
    if folder.parent == given_dir():
        return _given(folder, manifest, raw)
    if manifest.spec.exporter == "given":
        raise BadInputError(f"{path}: an artifact that somebody brought; give the file or folder itself")
    if away := _leading_away(folder):
        raise BadInputError(f"{away}: a link that leads out of the artifact's folder")
    return Artifact(folder, manifest, f"{hashlib.sha256(raw).hexdigest()}.{state}")


def given_dir() -> Path:
    """Return the folder of what is known about artifacts that the user brings. It may not exist yet."""
    return cache_dir() / "given"


def _given(folder: Path, manifest: Manifest, raw: bytes) -> Artifact:
    """Return an artifact that the user brings, stamped with the state of its files, wherever they are."""
    try:
        home = Path(json.loads(read_regular(folder / PLACE_NAME))["home"])
        states = {entry.path: inside(home / entry.path, home).stat() for entry in manifest.files}
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise BadInputError(f"{folder}: cannot be read: {_first_line(error)}") from error
    seen = [[path, one.st_size, one.st_mtime_ns, one.st_ino] for path, one in states.items()]
    state = hashlib.sha256(json.dumps(seen).encode()).hexdigest()
    return Artifact(folder, manifest, f"{hashlib.sha256(raw).hexdigest()}.{state}", home)


def inside(path: Path, home: Path) -> Path:
    """Return the path, which stays within ``home`` also where links lead.

    The Hub's cache keeps files as links from a snapshot to the blobs of the same repository: these stay within it too.

    Raises:
        BadInputError: it leads elsewhere.
    """
    real, base = path.resolve(), home.resolve()
    if real.is_relative_to(base):
        return path
    for folder in (base, *base.parents):
        if folder.parent.name == "snapshots" and real.is_relative_to(folder.parent.parent / "blobs"):
            return path
    raise BadInputError(f"{one_line(str(path))}: a link or a path that leads out of {one_line(str(home))}")


def same_content(stamp: str, other: str) -> bool:
    """Return whether two stamps are of one manifest, and so of the same files where both are whole."""
    return stamp.partition(".")[0] == other.partition(".")[0]


def _state_of(folder: Path) -> str:
    """Return a digest of names, sizes, times of change and places on the disk: of everything there, listed or not.

    It tells in microseconds what hashes tell in seconds, of any change but one made to deceive.
    """
    seen = []
    for path in sorted(folder.rglob("*")):
        state = path.lstat()
        if not (stat.S_ISREG(state.st_mode) or stat.S_ISDIR(state.st_mode) or stat.S_ISLNK(state.st_mode)):
            # Whoever reads a pipe waits for ever.
            raise BadInputError(f"{one_line(str(path))}: neither a file nor a folder")
        if not stat.S_ISDIR(state.st_mode):
            seen.append([path.relative_to(folder).as_posix(), state.st_size, state.st_mtime_ns, state.st_ino])
    return hashlib.sha256(json.dumps(seen).encode()).hexdigest()


def parse_manifest(text: bytes, where: str) -> Manifest:
    """Return the manifest, checked: its version, its fields, and that everything it names is in the artifact's folder.

    Raises:
        BadInputError: it is damaged, of another schema version, or names a file elsewhere; ``where`` says whose it is.
    """
    try:
        raw = json.loads(text)
        version = raw.get("schema_version") if isinstance(raw, dict) else None
        if type(version) is not int or version != SCHEMA_VERSION:
            raise BadInputError(f"{where}: schema version {version!r:.20}, this slmbench reads {SCHEMA_VERSION}")
        manifest = Manifest.model_validate(raw)
    except (ValueError, RecursionError) as error:
        raise BadInputError(f"{where}: not an artifact manifest: {_first_line(error)}") from error
    for relative in [*manifest.graphs.values(), *(entry.path for entry in manifest.files)]:
        if not _is_inside(relative):
            raise BadInputError(f"{where}: '{one_line(relative)[:200]}' is no file of the artifact's folder")
    return manifest


def _is_inside(relative: str) -> bool:
    """Return whether a path of a manifest stays in the artifact's folder, on every system it may be read on."""
    there = PureWindowsPath(relative)
    plain = bool(relative) and relative.isprintable() and "\\" not in relative
    return plain and not there.drive and not there.root and ".." not in there.parts


def _leading_away(folder: Path) -> Path | None:
    """Return an entry that is a link to elsewhere, listed or not: engines also open files next to a graph."""
    home = folder.resolve()
    entries = sorted(folder.rglob("*"))
    return next((entry for entry in entries if entry.is_symlink() and not entry.resolve().is_relative_to(home)), None)


def damage(artifact: Artifact, *, hashes: bool = True) -> str | None:
    """Return what is wrong with the artifact's files, or None when all are as written.

    With ``hashes=False`` only presence and size are looked at.
    """
    listed = {entry.path for entry in artifact.manifest.files}
    for graph in artifact.manifest.graphs.values():
        if graph not in listed:
            return f"{artifact.home / graph} is a graph that the manifest has no hash of"
    given = artifact.elsewhere is not None
    # The folder of a given artifact is the user's and may hold anything; an engine opens what is listed.
    if not given and (stranger := _unlisted(artifact.folder, listed)) is not None:
        return f"{one_line(str(stranger))} is in the artifact's folder, and the manifest has no hash of it"
    for entry in artifact.manifest.files:
        path = artifact.home / entry.path
        try:
            size = path.stat().st_size
        except OSError:
            return f"{path} is missing"
        if size != entry.size_bytes:
            return f"{path} has {size} bytes, {entry.size_bytes} were written"
        if hashes and (sha256_remembered(path) if given else sha256_of(path)) != entry.sha256:
            return f"{path} was changed after it was written (SHA-256 differs)"
    return None


def _unlisted(folder: Path, listed: set[str]) -> Path | None:
    """Return a file that the manifest does not list, hidden ones aside: engines open what they know by its name."""
    known = listed | {MANIFEST_NAME}
    files = (path for path in sorted(folder.rglob("*")) if not path.name.startswith(".") and not path.is_dir())
    return next((path for path in files if path.relative_to(folder).as_posix() not in known), None)


def _first_line(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return one_line(f"{'.'.join(map(str, first['loc']))}: {first['msg']}")
    return one_line(str(error).splitlines()[0]) if str(error) else type(error).__name__
