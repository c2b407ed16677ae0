"""What is this file? From what a user types to an artifact whose headers were read; nothing in it is run or written."""

from __future__ import annotations

import hashlib
import re
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import partial
from pathlib import Path

from slmbench.errors import BadInputError, nearest, one_line
from slmbench.given import ctranslate2, gguf, hf_onnx, openvino_ir, ort_genai
from slmbench.given.description import Description, files_of, short
from slmbench.given.gguf_reader import MAGIC
from slmbench.models import hub
from slmbench.models.checkpoint import Checkpoint
from slmbench.models.given_record import LAYOUTS, GivenFile, GivenRecord, weight_types
from slmbench.system.digests import sha256_remembered
from slmbench.system.paths import plain_path, plain_text

#: ``PATH:NAME`` or ``org/name:NAME``: one of the artifacts of a folder or a repository.
_NAMED = re.compile(r"(?P<place>.+):(?P<name>[\w.-]{1,80})")

#: How files end that say nothing without the others in their folder.
_PARTS = {".json", ".txt", ".bin", ".model", ".safetensors", ".jinja"}

#: How a blob of OpenVINO's NPU wrapper begins; its kind and OpenVINO's version follow (seen with 2026.4.1).
_NPUW = b"\x13\x37npuw"


@dataclass(frozen=True)
class Candidate:
    """One artifact that a folder holds, and what to call it."""

    #: "Q4_K_M", "q4f16", ...: what follows the colon.
    name: str
    #: What is there, for a listing: a file or a folder.
    shown: str
    describe: Callable[[], Description]


def candidates(folder: Path) -> list[Candidate]:
    """Return the artifacts that a folder holds.

    Raises:
        BadInputError: it cannot be read.
    """
    try:
        ggufs = gguf.named(files_of(folder))
        found = [Candidate(tag, name, partial(gguf.describe, folder / name)) for tag, name in ggufs]
        if openvino_ir.is_folder(folder):
            found.append(Candidate("openvino", "*.xml", partial(openvino_ir.describe, folder)))
        if ctranslate2.is_folder(folder):
            found.append(Candidate("ctranslate2", ctranslate2.MODEL, partial(ctranslate2.describe, folder)))
        if ort_genai.is_folder(folder):
            found.append(Candidate("genai", ort_genai.CONFIG, partial(ort_genai.describe, folder)))
        else:
            found += [
                Candidate(name, ", ".join(graphs.values()), partial(hf_onnx.describe, folder, graphs))
                for name, graphs in hf_onnx.variants(folder).items()
            ]
        return found
    except OSError as error:
        raise BadInputError(f"{folder}: cannot be read: {error.strerror}") from error


def split_name(reference: str) -> tuple[str, str | None]:
    """Return the place and the name of ``PLACE:NAME``; the whole text and None where nothing is named."""
    match = _NAMED.fullmatch(reference)
    return (match["place"], match["name"]) if match else (reference, None)


def of_file(path: Path) -> Checkpoint:
    """Return the artifact that a file is, or that it is the graph of.

    Raises:
        BadInputError: it is of no known layout, or damaged.
    """
    if path.suffix.lower() == ".gguf" or _begins_with(path, MAGIC):
        return _checkpoint(gguf.describe(path), path.parent, gguf.stem_of(path))
    if path.suffix == ".xml" and openvino_ir.is_folder(path.parent):
        return _checkpoint(openvino_ir.describe(path.parent), path.parent, path.resolve().parent.name)
    if path.name == ctranslate2.MODEL and ctranslate2.is_folder(path.parent):
        return _checkpoint(ctranslate2.describe(path.parent), path.parent, path.resolve().parent.name)
    if path.suffix == ".onnx":
        return _of_onnx(path)
    if _begins_with(path, _NPUW):
        raise BadInputError(
            f"{path}: a model that OpenVINO's NPU wrapper (NPUW) compiled{_made_by(path)}, for one driver and for "
            "shapes that only it can read; slmbench measures the checkpoint that it was made of: "
            "`slmbench run --device npu`, with --simulate where there is no NPU"
        )
    if path.suffix in _PARTS and _is_model(path.parent):
        raise BadInputError(f"{path}: one file of a model; give the folder: {path.parent}")
    raise BadInputError(f"{path}: a file that is no artifact slmbench knows ({_known()}); a checkpoint is a folder")


def _is_model(folder: Path) -> bool:
    """Return whether a folder as a whole is a model: a checkpoint, or an artifact of several files."""
    is_checkpoint = (folder / "config.json").is_file() and any(folder.glob("*.safetensors"))
    return is_checkpoint or any(not one.shown.endswith(".gguf") for one in candidates(folder))


def _of_onnx(path: Path) -> Checkpoint:
    folder = path.parent if (path.parent / "config.json").is_file() else path.parent.parent
    if ort_genai.is_folder(path.parent):
        return _checkpoint(ort_genai.describe(path.parent), path.parent, path.resolve().parent.name)
    relative = path.resolve().relative_to(folder.resolve()).as_posix()
    found = {name: graphs for name, graphs in hf_onnx.variants(folder).items() if relative in graphs.values()}
    for name, graphs in found.items():
        return _checkpoint(hf_onnx.describe(folder, graphs), folder, f"{folder.resolve().name}:{name}")
    raise BadInputError(f"{path}: an ONNX file without the config.json and the name that say what it is ({_known()})")


def of_folder(folder: Path, name: str | None = None, *, called: str | None = None) -> Checkpoint | None:
    """Return the artifact of that name in a folder, or the only one there; None where the folder holds none.

    ``called`` is what the user calls the folder (a Hub id).

    Raises:
        BadInputError: it holds several and none is named, or none of that name; or what is there is damaged.
    """
    found = candidates(folder)
    called = called or str(folder)
    if not found:
        _check_projectors(folder, called)
        return None
    one = choose(found, name, called)
    base = folder.resolve().name if called == str(folder) else called
    alone = len(found) == 1 and one.name in ("model", "openvino", "genai", "ctranslate2")
    title = gguf.stem_of(Path(one.shown)) if one.shown.endswith(".gguf") and called == str(folder) else base
    return _checkpoint(one.describe(), folder, title if alone or title != base else f"{base}:{one.name}")


def _check_projectors(folder: Path, called: str) -> None:
    """Refuse a folder that holds nothing but what reads pictures for a model.

    Raises:
        BadInputError: with the file's name.
    """
    alone = [name for name in files_of(folder) if gguf.is_projector(name)]
    if alone and not (folder / "config.json").is_file():
        raise BadInputError(f"{called}: holds a projector for pictures ({alone[0]}) and no model")


def named_in(folder: Path, name: str) -> Checkpoint:
    """Return the artifact of that name in a folder.

    Raises:
        BadInputError: there is none of that name, or it is damaged.
    """
    found = of_folder(folder, name)
    if found is None:
        raise BadInputError(f"{folder}: holds no artifact that slmbench knows ({_known()})")
    return found


def choose(found: Sequence[Candidate], name: str | None, called: str) -> Candidate:
    """Return the candidate of that name, upper or lower case alike.

    Raises:
        BadInputError: there are several and none is named, or there is none of that name; all are listed.
    """
    listed = ", ".join(f"{one.name} ({one.shown})" for one in found[:20]) + (", ..." if len(found) > 20 else "")
    if name is None:
        if len(found) > 1:
            raise BadInputError(
                f"{called}: holds {len(found)} artifacts: {listed}; name one, for example {called}:{found[0].name}"
            )
        return found[0]
    fitting = [one for one in found if one.name.lower() == name.lower()]
    if len(fitting) != 1:
        hint = nearest(name, [one.name for one in found])
        raise BadInputError(f"{called}: has no artifact '{name}'. It has: {listed}.{hint}")
    return fitting[0]


def of_hub(repository: str, name: str | None, *, revision: str | None, offline: bool) -> Checkpoint:
    """Return the artifact of a Hub repository, whose files are fetched if they are not in the Hub's cache.

    Raises:
        BadInputError: it holds none, several and none is named, or what is there is damaged.
        CannotRunError: the Hub cannot be reached, or the disk is full.
    """
    sizes = hub.list_files(repository, revision=revision, offline=offline)
    top = [one for one in sizes if "/" not in one]
    ggufs = dict(gguf.named(top))
    if ggufs:
        if name is None and len(ggufs) == 1:
            name = next(iter(ggufs))
        wanted = {tag.lower(): file for tag, file in ggufs.items()}.get((name or "").lower())
        stem = gguf.stem_of(Path(wanted)) if wanted else ""
        patterns = [f"{stem}.gguf", f"{stem}-*-of-*.gguf"] if wanted else []
    else:
        patterns = ["*.json", "*.txt", "*.jinja", "*.model", "*.xml", "*.bin", "*.data", "*.onnx", "*.onnx_data*"]
        graphs = hf_onnx.kinds_of(sizes)
        if graphs and not ({openvino_ir.MODEL, openvino_ir.DECODER, ort_genai.CONFIG} & set(top)):
            files = graphs.get(name or next(iter(graphs)), {}) if name or len(graphs) == 1 else {}
            patterns = ["*.json", "*.txt", "*.jinja", *(f"{path}*" for path in files.values())] if files else []
    if not patterns:
        listed = ", ".join([*ggufs, *hf_onnx.kinds_of(sizes)][:40])
        what = f"has no artifact '{name}'" if name else "holds several artifacts"
        raise BadInputError(
            f"{repository}: {what}; it has: {listed or 'no file of any layout that slmbench knows'}; "
            f"name one as {repository}:NAME"
        )
    # Weights of PyTorch end like those of an IR.
    patterns = [name for name in sizes if any(fnmatch(name, one) for one in patterns) and not _of_torch(name, sizes)]
    folder, commit = hub.download_files(repository, patterns, sizes, revision=revision, offline=offline)
    found = of_folder(folder, name if ggufs or hf_onnx.kinds_of(sizes) else None, called=repository)
    if found is None:
        raise BadInputError(f"{repository}: holds no artifact that slmbench knows ({_known()})")
    return found.model_copy(update={"revision": commit})


def _of_torch(name: str, sizes: Mapping[str, int]) -> bool:
    return name.endswith(".bin") and name.removesuffix(".bin") + ".xml" not in sizes


def _checkpoint(found: Description, folder: Path, name: str) -> Checkpoint:
    """Return the artifact as a model to measure; its files are hashed here, once."""
    folder = folder.resolve()
    files = []
    for relative in sorted(set(found.files)):
        path = folder / relative
        try:
            size, sha256 = path.stat().st_size, sha256_remembered(path)
        except OSError as error:
            raise BadInputError(f"{path}: cannot be read: {error.strerror}") from error
        files.append(GivenFile(path=Path(relative).as_posix(), size_bytes=size, sha256=sha256))
    digest = hashlib.sha256("\n".join(f"{one.path} {one.sha256}" for one in files).encode()).hexdigest()
    given = GivenRecord(
        layout=found.layout,
        precision=found.precision,
        compute=found.compute,
        weight_types=weight_types(found.weight_types),
        decode_weight_bytes=found.decode_weight_bytes,
        files=tuple(files),
        graphs=tuple(sorted(found.graphs.items())),
        producer=tuple(sorted((short(key), short(value)) for key, value in found.producer.items()))[:64],
        context_length=found.context_length,
        tokenizer=found.tokenizer,
        attention=found.attention,
        flags=tuple(found.flags),
        inputs=tuple(sorted(found.inputs)),
    )
    return Checkpoint(
        name=one_line(plain_text(name)),
        source="given",
        path=plain_path(folder),
        family=found.family,
        architecture=found.architecture,
        parameter_count=found.parameters,
        geometry=found.geometry,
        digest=digest,
        has_tokenizer=bool(found.tokenizer),
        decoder_start_token_id=found.decoder_start_token_id,
        eos_token_ids=found.eos_token_ids,
        unfed_token_ids=found.unfed_token_ids,
        pad_token_id=found.pad_token_id,
        vision=found.vision,
        given=given,
    )


def _made_by(path: Path) -> str:
    """Return which OpenVINO made a blob of its NPU wrapper; nothing where that is not said."""
    with path.open("rb") as file:
        head = file.read(24)
    if len(head) < 24:
        return ""
    version = struct.unpack("<III", head[12:24])
    return f" with OpenVINO {'.'.join(map(str, version))}" if 2020 <= version[0] < 2100 else ""


def _begins_with(path: Path, magic: bytes) -> bool:
    try:
        if not path.is_file():
            return False
        with path.open("rb") as file:
            return file.read(len(magic)) == magic
    except OSError:
        return False


def _known() -> str:
    return ", ".join(LAYOUTS.values())
