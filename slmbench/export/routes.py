"""Which route writes which artifact, what it cannot do, and which libraries decide its bytes. Torch-free."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal, Protocol, cast

from slmbench._version import __version__
from slmbench.errors import BadInputError, CannotRunError
from slmbench.export.calibration_text import with_kept_text
from slmbench.export.community import OPTIMUM_PICTURES, optimum_refusal
from slmbench.export.failed_proofs import failed_proof
from slmbench.export.recipes import PLAIN, check_recipe, check_used, with_recipe
from slmbench.models.artifact import ArtifactSpec, Manifest, Role
from slmbench.models.checkpoint import Checkpoint
from slmbench.models.gguf_layout import MIXTURES
from slmbench.models.known_routes import known_failure
from slmbench.models.shipped_golden import needs_torch
from slmbench.system.extras import missing
from slmbench.terms import EXPORTERS, GGUF_PRECISIONS, Exporter, Format, Layout, Precision


@dataclass(frozen=True)
class RouteEntry:
    """A route by name, so that nothing heavy is imported before it is used."""

    module: str
    #: Distributions whose versions decide what it writes.
    libraries: tuple[str, ...]
    #: And those that decide it where llama.cpp's quantiser makes the file.
    quantisers: tuple[str, ...] = ()
    #: It builds its graphs itself, and takes the catalog's networks without torch.
    builds: bool = False

    def refusal(self, checkpoint: Checkpoint, spec: ArtifactSpec) -> str | None:
        """Return why the route cannot write this artifact (one line), or None."""
        return cast("str | None", import_module(self.module).refusal(checkpoint, spec))

    def draws(self, spec: ArtifactSpec, checkpoint: Checkpoint) -> bool:
        """Return whether it takes the checkpoint's network and golden record as they come with slmbench."""
        return self.builds and not spec.pictures and not needs_torch(checkpoint)

    def deciding(self, spec: ArtifactSpec, checkpoint: Checkpoint) -> tuple[str, ...]:
        """Return the distributions whose versions decide the bytes of this artifact."""
        libraries = [name for name in self.libraries if name not in _TORCH or not self.draws(spec, checkpoint)]
        return (*libraries, *(self.quantisers if spec.weight_precision in MIXTURES else ()))

    def writer(self) -> Route:
        """Return the function that writes."""
        return cast(Route, import_module(self.module).write)


_TORCH = ("torch", "transformers")
_ROUTES: dict[tuple[Format, Exporter, str], RouteEntry] = {
    ("openvino", "slmbench", "dynamic"): RouteEntry(
        "slmbench.export.openvino.route", (*_TORCH, "openvino", "nncf"), builds=True
    ),
    ("onnx", "slmbench", "dynamic"): RouteEntry("slmbench.export.onnx.route", (*_TORCH, "onnx-ir"), builds=True),
    ("openvino", "generic", "dynamic"): RouteEntry(
        "slmbench.export.generic.openvino_route", (*_TORCH, "openvino", "nncf")
    ),
    ("onnx", "generic", "dynamic"): RouteEntry("slmbench.export.generic.onnx_route", (*_TORCH, "onnx", "onnx-ir")),
    ("openvino", "optimum", "dynamic"): RouteEntry(
        "slmbench.export.optimum", (*_TORCH, "optimum-intel", "openvino", "nncf")
    ),
    ("onnx", "genai", "dynamic"): RouteEntry("slmbench.export.ort_genai", (*_TORCH, "onnxruntime-genai", "onnx")),
    ("torch", "none", "dynamic"): RouteEntry("slmbench.export.torch", ()),
    ("gguf", "slmbench", "dynamic"): RouteEntry(
        "slmbench.export.gguf.route", (*_TORCH, "gguf"), ("llama-cpp-python",), builds=True
    ),
    ("ctranslate2", "ctranslate2", "dynamic"): RouteEntry(
        "slmbench.export.ctranslate2_route", (*_TORCH, "ctranslate2")
    ),
    ("openvino", "slmbench", "static"): RouteEntry("slmbench.export.static.route", (*_TORCH, "openvino", "nncf")),
    ("onnx", "slmbench", "static"): RouteEntry("slmbench.export.static.route", (*_TORCH, "onnx")),
}
#: What "auto" asks for each format, in order: what people deploy it with, our own builder, then the network traced.
_ORDER: dict[Format, tuple[Exporter, ...]] = {
    "openvino": ("optimum", "slmbench", "generic"),
    "onnx": ("genai", "slmbench", "generic"),
    "gguf": ("slmbench",),
    "ctranslate2": ("ctranslate2",),
    "torch": ("none",),
}


#: Who exports the vision part too, where that is not the generic exporter.
_FOR_PICTURES: dict[Format, Exporter] = {"torch": "none", "gguf": "slmbench"}
#: The engine that proves a format's artifacts in docs/architectures.md.
_ENGINES: dict[Format, str] = {"openvino": "openvino", "onnx": "onnxruntime"}


@dataclass(frozen=True)
class ChosenRoute:
    """The one exporter for all checkpoints under comparison, and why those that were asked before it are not."""

    exporter: Exporter
    passed_over: tuple[tuple[Exporter, str], ...] = ()

    def sentence(self) -> str:
        """Return the exporter and the reasons, on one line."""
        reasons = "; ".join(f"not {name}: {reason}" for name, reason in self.passed_over)
        return f"{self.exporter} ({reasons})" if reasons else self.exporter


def make_spec(
    checkpoint: Checkpoint,
    format: Format,
    precision: Precision,
    exporter: str = "auto",
    *,
    layout: Layout = "dynamic",
    input_tokens: int | None = None,
    output_tokens: int | None = None,
    target: str | None = None,
    soc: str | None = None,
    recipe: str = PLAIN,
    pictures: bool = False,
) -> ArtifactSpec:
    """Return the spec of one checkpoint's export, its exporter chosen where "auto" is asked.

    Pictures go by one exporter alone: the generic one, none for torch, slmbench's for GGUF.

    Raises:
        BadInputError: an unknown exporter, bounds missing or out of place, a chip without its target.
        CannotRunError: the exporter does not take this checkpoint.
    """
    if exporter not in ("auto", *EXPORTERS):
        raise BadInputError(f"unknown exporter '{exporter}'. Known: auto, {', '.join(EXPORTERS)}")
    bounds = (input_tokens, output_tokens)
    if layout == "static" and None in bounds:
        raise BadInputError("the static layout needs its bounds: give --input-tokens and --output-tokens")
    if layout == "dynamic" and bounds != (None, None):
        raise BadInputError("--input-tokens and --output-tokens bound the static layout; the dynamic one has no bounds")
    if soc is not None and target != "qnn":
        raise BadInputError(f"slmbench export --soc {soc} needs --target qnn")
    if pictures and exporter == "auto":
        chosen = _FOR_PICTURES.get(format, "generic")
    elif format == "torch" or (layout == "dynamic" and target is None):
        chosen = choose_route(format, [checkpoint], precision, cast("Exporter", exporter)).exporter
    else:
        chosen = "slmbench" if exporter == "auto" else cast("Exporter", exporter)
    spec = ArtifactSpec(
        format=format,
        layout=layout,
        weight_precision=precision,
        exporter=chosen,
        input_tokens=input_tokens,
        output_tokens=output_tokens,
        target=f"{target}-{soc.lower()}" if soc else target,
        pictures=pictures,
    )
    if pictures and (reason := refusal(checkpoint, spec)) is not None:
        raise CannotRunError(f"{checkpoint.name}: {reason}")
    made = with_recipe(spec, checkpoint, with_kept_text(check_recipe(recipe)))
    check_used(recipe, [made])
    return made


def route(spec: ArtifactSpec) -> RouteEntry:
    """Return the route for a spec.

    Raises:
        CannotRunError: no route writes that combination of format, exporter and layout.
    """
    entry = _ROUTES.get((spec.format, spec.exporter, spec.layout))
    if entry is None:
        known = sorted(
            {exporter for format_, exporter, layout in _ROUTES if (format_, layout) == (spec.format, spec.layout)}
        )
        hint = f"; {spec.format} {spec.layout} is written by: {', '.join(known)}" if known else ""
        raise CannotRunError(f"exporter '{spec.exporter}' writes no {spec.layout} {spec.format} artifact{hint}")
    return entry


def refusal(checkpoint: Checkpoint, spec: ArtifactSpec) -> str | None:
    """Return why this artifact cannot be exported (one line), or None when it can."""
    if spec.weight_precision in GGUF_PRECISIONS and spec.format != "gguf":
        return (
            f"{spec.weight_precision} is a precision of GGUF files, which `slmbench run --backend llama_cpp` measures"
        )
    if spec.pictures and (reason := _pictures_refusal(checkpoint, spec)) is not None:
        return reason
    try:
        # What an exporter says of an architecture is of text alone.
        return None if spec.pictures and spec.exporter == "optimum" else route(spec).refusal(checkpoint, spec)
    except CannotRunError as error:
        return str(error)


def _pictures_refusal(checkpoint: Checkpoint, spec: ArtifactSpec) -> str | None:
    """Return why no artifact of that kind takes pictures, or None."""
    if checkpoint.vision is None:
        return f"{checkpoint.name} takes no pictures"
    if checkpoint.vision.refusal is not None:
        return checkpoint.vision.refusal
    if spec.exporter == _FOR_PICTURES.get(spec.format, "generic") and spec.layout == "dynamic":
        return None
    if spec.exporter == "optimum" and checkpoint.vision.model_type in OPTIMUM_PICTURES:
        return optimum_refusal(checkpoint.vision.model_type, pictures=True)
    return f"the exporter {spec.exporter} ({spec.layout}) is used for text alone; generic exports the vision part too"


def choose_route(
    format: Format,
    checkpoints: Sequence[Checkpoint],
    precision: Precision,
    requested: Exporter | Literal["auto"] = "auto",
) -> ChosenRoute:
    """Return the one route for all ``checkpoints`` under comparison (dynamic layout).

    "auto" takes the first that takes every checkpoint and has not failed its proof for one. A checkpoint that no
    route takes decides nothing.

    Raises:
        CannotRunError: the requested exporter does not take one of them; the text names it and says why.
    """
    if format == "torch":
        return ChosenRoute("none")
    if requested != "auto":
        for checkpoint in checkpoints:
            reason = refusal(checkpoint, ArtifactSpec(format=format, weight_precision=precision, exporter=requested))
            if reason is not None:
                raise CannotRunError(f"{checkpoint.name}: {reason}")
        return ChosenRoute(requested)
    order = _ORDER[format]
    reasons = {
        (exporter, checkpoint.name): _not_chosen(
            checkpoint, ArtifactSpec(format=format, weight_precision=precision, exporter=exporter)
        )
        for exporter in order
        for checkpoint in checkpoints
    }
    taken = [c for c in checkpoints if any(reasons[exporter, c.name] is None for exporter in order)]
    passed_over: list[tuple[Exporter, str]] = []
    for exporter in order:
        against = [(c, reason) for c in taken if (reason := reasons[exporter, c.name])]
        if not against:
            # The last one's refusal is the answer where none takes any of them.
            return ChosenRoute(exporter if taken else order[-1], tuple(passed_over))
        passed_over.append((exporter, f"{against[0][0].name}: {against[0][1]}"))
    # Each takes some, none takes all: the one that takes most.
    most = max(order, key=lambda exporter: sum(reasons[exporter, c.name] is None for c in taken))
    return ChosenRoute(most, tuple(one for one in passed_over if one[0] != most))


def _not_chosen(checkpoint: Checkpoint, spec: ArtifactSpec) -> str | None:
    """Return why "auto" does not take a route: it refuses, or it failed when it was last tried."""
    found = refusal(checkpoint, spec)
    if found is not None:
        return found
    lacking = missing_libraries(spec, checkpoint)
    if lacking and _exports_otherwise(checkpoint, spec):
        # This machine can export, but not by that route. (One that cannot export at all uses what it was given.)
        return missing(lacking[0])
    again = f"(--exporter {spec.exporter} tries again)"
    failed = failed_proof(spec.artifact_id(checkpoint.digest))
    if failed is not None and made_alike(checkpoint, spec, failed.versions, installed_versions()):
        what = failed.message if failed.backend is None else f"failed its proof on {failed.backend}: {failed.message}"
        return f"{what} {again}"
    known = known_failure(checkpoint.architecture, f"{_ENGINES.get(spec.format)} {spec.exporter}")
    return f"failed when slmbench's own tests tried it: {known} {again}" if known is not None else None


def _exports_otherwise(checkpoint: Checkpoint, spec: ArtifactSpec) -> bool:
    """Return whether another route of the format takes the checkpoint with what is installed here."""
    others = [spec.model_copy(update={"exporter": name}) for name in _ORDER[spec.format] if name != spec.exporter]
    return any(not missing_libraries(one, checkpoint) and refusal(checkpoint, one) is None for one in others)


def installed_versions() -> dict[str, str]:
    """Return the versions of slmbench and of every exporter library that is installed."""
    found = {"slmbench": __version__}
    for name in sorted({name for entry in _ROUTES.values() for name in (*entry.libraries, *entry.quantisers)}):
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def missing_libraries(spec: ArtifactSpec, checkpoint: Checkpoint) -> list[str]:
    """Return the distributions that an export needs, for its golden record too, and that are not installed."""
    now = installed_versions()
    entry = route(spec)
    needed = [*(() if entry.draws(spec, checkpoint) else _TORCH), *entry.deciding(spec, checkpoint)]
    return [name for name in dict.fromkeys(needed) if name not in now]


def made_alike(checkpoint: Checkpoint, spec: ArtifactSpec, one: Mapping[str, str], other: Mapping[str, str]) -> bool:
    """Return whether everything that decides an artifact's bytes had the same version in two exports."""
    deciding = ("slmbench", *_TORCH, *route(spec).deciding(spec, checkpoint))
    return all(one.get(name) == other.get(name) for name in deciding)


def outdated(manifest: Manifest) -> str | None:
    """Return which library made the artifact in another version than the one installed, or None.

    None too where a library is not installed at all: a machine without exporters uses what it was given.
    """
    now = installed_versions()
    deciding = ("slmbench", *route(manifest.spec).deciding(manifest.spec, manifest.checkpoint))
    if any(name not in now for name in deciding):
        return None
    for name in deciding:
        made = manifest.versions.get(name, "none")
        if made != now[name]:
            return f"{name} {made}, now {now[name]}"
    return None


#: Told one short line whenever the work enters a new stage.
Progress = Callable[[str], None]


@dataclass(frozen=True)
class Exported:
    """What a route wrote into its folder; the fields become the manifest's."""

    graphs: dict[Role, str]
    attention: str
    cross_kv_once: bool | None
    decode_weight_bytes: int | None
    #: What a recipe came down to; empty without one.
    recipe: dict[str, str] = field(default_factory=dict)


class Route(Protocol):
    """Writes the graphs of ``checkpoint`` as ``spec`` asks into the empty ``folder``."""

    def __call__(self, checkpoint: Checkpoint, spec: ArtifactSpec, folder: Path, progress: Progress) -> Exported:
        """Export.

        Raises:
            CannotRunError: a library is missing or fails; the text names the architecture and what would work.
        """
