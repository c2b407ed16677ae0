"""What a backend implements, and how backends are found.

A backend drives one engine. It says which devices it sees, which artifacts it takes, and opens a session:
one loaded model on one device. A package adds a backend with an entry point in the group
``slmbench.backends`` that names a class satisfying :class:`Backend`; slmbench's own come in by the same door.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points
from typing import Literal, Protocol, Self, runtime_checkable

from pydantic import BaseModel, ConfigDict

from slmbench.case import Workload
from slmbench.errors import BadInputError, CannotRunError, nearest
from slmbench.models.artifact import Artifact, ArtifactSpec, Role
from slmbench.models.checkpoint import Checkpoint
from slmbench.models.geometry import Geometry
from slmbench.session_abilities import (
    ENGINES_OWN,
    UNASKED,
    Draws,
    Extends,
    FreesMemory,
    GivesAnswerLogits,
    GivesChunkLogits,
    GivesLogits,
    Pixels,
    Rereads,
    TakesPictures,
    TakesWholePictures,
    TellsMargins,
    TellsPhases,
    TellsSettings,
    Tokens,
)
from slmbench.system.telemetry import silence_telemetry
from slmbench.terms import ComputePrecision, Device, Precision, Settings

#: What plugins may use. Some of it is defined elsewhere in slmbench; plugins import it from here.
__all__ = [
    "ENGINES_OWN", "ENTRY_POINT_GROUP", "UNASKED", "Ability", "Artifact", "ArtifactSpec", "AttentionDefault", "Backend",
    "BadInputError", "CannotRunError", "Checkpoint", "ComputeDefault", "ComputePrecision", "Device", "DeviceStatus",
    "Draws", "Extends", "FreesMemory", "Geometry", "GivesAnswerLogits", "GivesChunkLogits", "GivesLogits",
    "LimitsProbe", "LoopSession", "PictureLimits", "Pixels", "Placement", "Precision", "ProbeGraph", "ProbeShape",
    "Rereads", "Role", "Session", "SessionBase", "SessionOptions", "Settings", "SharesLoads", "ShippedSettings",
    "TakesPictures", "TakesWholePictures", "TellsMargins", "TellsPhases", "TellsSettings", "Tokens", "WeightCopies",
    "Workload", "WorkloadAbilities", "backend_names", "load_backend", "load_backends", "specs_of",
]  # fmt: skip

ENTRY_POINT_GROUP = "slmbench.backends"


@dataclass(frozen=True)
class DeviceStatus:
    """One device a backend looked for, present or not."""

    device: Device
    #: The engine's own name for it: "CPU", "GPU.0", "CUDAExecutionProvider:0".
    engine_name: str
    available: bool
    #: What it is ("AMD EPYC ..."), or what was looked for and what was found instead.
    detail: str
    #: What to install or switch on if it is missing.
    remedy: str = ""
    memory_bytes: int | None = None
    driver: str | None = None

    def refusal(self) -> str:
        """Return, of a device that is missing, what was looked for and what it needs, on one line."""
        return f"{self.detail}; needs {self.remedy}"


class SessionOptions(BaseModel):
    """What every session is opened with; a backend may subclass it to add options of its own."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    #: With shipped settings the engine chooses, and this says nothing.
    compute_precision: ComputePrecision = "fp32"
    #: "shipped" (see :class:`ShippedSettings`): leave the engine's own defaults, except for what is asked by name.
    settings: Settings = "fair"
    #: Threads of the engine; None for the number of physical cores this process may use.
    threads: int | None = None
    #: The attention path, one of ``Backend.attention_paths``; None for the backend's best.
    attention: str | None = None
    #: Where an engine may keep compiled blobs; None for nowhere.
    engine_cache: str | None = None
    #: Run an accelerator's pipeline without the accelerator. Tokens count, times do not.
    simulate: bool = False

    @classmethod
    def of(cls, options: SessionOptions) -> Self:
        """Return the options in this type, with the defaults of what ``options`` does not have."""
        return options if isinstance(options, cls) else cls(**options.model_dump())


@dataclass(frozen=True)
class Placement:
    """Where the model really ran, as the engine reports it after an inference."""

    requested: Device
    #: "cpu", "gpu", "npu", or what replaces one: "npuw-cpu", "htp-emulator".
    executed_on: str
    #: Graph nodes (or the unit that the engine counts) by engine device or provider; empty if it does not report them.
    nodes: dict[str, int] = field(default_factory=dict)


class SessionBase(Protocol):
    """What both kinds of session share: reserving, closing, and what the engine says of itself."""

    def reserve(self, batch: int, input_tokens: int, output_tokens: int) -> None:
        """Prepare buffers for prompts up to ``input_tokens`` and ``output_tokens`` new tokens.

        Raises:
            BadInputError: the shape is beyond what the artifact or the engine takes.
        """

    def placement(self) -> Placement:
        """Return where the last inference was executed, read back from the engine."""

    def compute_precision(self) -> str:
        """Return the compute precision in effect, read back from the engine ("fp32", "bf16", ...)."""

    def threads(self) -> int:
        """Return the number of threads in effect, read back from the engine where it reports it."""

    def attention_path(self) -> str:
        """Return the attention path that runs: "paged", "SDPA", "GroupQueryAttention", "eager", ..."""

    def load_phases_ns(self) -> dict[str, int]:
        """Return the parts of opening in ns: "load" (reading), "compile"; what cannot be separated is "load"."""

    def close(self) -> None:
        """Free the model and its buffers. A closed session is not used again."""


@runtime_checkable
class Session(SessionBase, Protocol):
    """One loaded model on one device, driven token by token. Greedy, EOS suppressed; not thread-safe.

    The caller reserves once for a shape, then starts as often as it likes: every ``start`` forgets the
    generation before it. Token ids go in, token ids on the host come out; nothing is allocated in between.
    """

    def start(self, input_ids: Tokens, attention_mask: Tokens | None = None) -> Tokens:
        """Read prompts ``[batch, input]`` and return the first token of each, ``[batch]``, int64.

        ``attention_mask`` (same shape, 1 for tokens) is given only for prompts of unequal length: padded on
        the right for encoder-decoders, on the left for decoder-only.

        Where the backend can do "answers" there may be fewer prompts than the reserved batch, which is then a multiple
        of them: each prompt is read once and answered by that many rows, which are neighbours in the batch.
        The first tokens of all rows are returned.

        Raises:
            BadInputError: the prompts exceed what is reserved, or nothing is.
            CannotRunError: the engine does not take such a batch (padded, or shared by several rows), or fails.
        """

    def step(self, tokens: Tokens) -> Tokens:
        """Feed ``tokens`` ``[batch]`` and return the next ones ``[batch]``.

        The fed tokens need not be ours: under teacher forcing they are the reference's.

        Raises:
            BadInputError: a token beyond what is reserved, or no prompt was read.
            CannotRunError: the engine fails.
        """

    def phases_ns(self) -> dict[str, int]:
        """Return the parts of the last ``start`` in ns: "encode", "cross_kv" where separable, "first_step"."""


@runtime_checkable
class LoopSession(SessionBase, Protocol):
    """A session of an engine that brings its own generation loop and lets nobody step it."""

    def generate(self, input_ids: Tokens, output_tokens: int) -> tuple[Tokens, list[int]]:
        """Generate greedily, EOS suppressed, from prompts ``[batch, input]``.

        Returns the tokens ``[batch, n]`` and the ``perf_counter_ns`` stamps at which each of the ``n`` tokens
        reached the host. ``n`` is what the engine gave; the caller compares it with what was asked.

        Raises:
            BadInputError: prompts and answer exceed what is reserved.
            CannotRunError: the engine fails.
        """


@runtime_checkable
class Backend(Protocol):
    """Drives one engine. Instances are cheap: the engine is imported inside methods only."""

    #: Name on the command line and in tables: "onnxruntime".
    name: str
    #: The engine it drives ("openvino" for openvino and openvino_genai): backends of one engine are its paths,
    #: and a pair is judged against the engine's best.
    engine: str
    #: Distributions whose versions belong in every record: ("onnxruntime",).
    distributions: tuple[str, ...]
    #: The options ``open`` takes.
    options_type: type[SessionOptions]
    #: Attention paths that can be asked for, the best first; empty when there is no choice.
    attention_paths: tuple[str, ...]

    def devices(self) -> Sequence[DeviceStatus]:
        """Return every device looked for. Never raises: a missing engine is a status with a remedy."""

    def artifact_specs(self, checkpoint: Checkpoint, precision: Precision, device: Device) -> Sequence[ArtifactSpec]:
        """Return the artifacts this backend takes for the checkpoint, the preferred first; empty if none."""

    def refusal(
        self, checkpoint: Checkpoint, spec: ArtifactSpec, options: SessionOptions, device: Device
    ) -> str | None:
        """Return why this combination cannot run (one line), or None when it can."""

    def open(self, artifact: Artifact, device: Device, options: SessionOptions) -> Session | LoopSession:
        """Load the artifact onto the device.

        Raises:
            CannotRunError: the engine, the device or the combination is not there; the text says what to do.
        """


@runtime_checkable
class ComputeDefault(Protocol):
    """What a backend may also have: a compute precision of its own where nobody asks for one."""

    def default_compute(self, weights: Precision, device: Device, *, simulate: bool) -> ComputePrecision:
        """Return what weights of that precision are computed in on that device (or in its simulation)."""


@runtime_checkable
class ShippedSettings(Protocol):
    """What a backend may also have: sessions with the engine's own defaults (``SessionOptions.settings``)."""

    def shipped_refusal(self, spec: ArtifactSpec, device: Device) -> str | None:
        """Return why this artifact does not run on that device with the engine's own defaults, or None."""


@runtime_checkable
class AttentionDefault(Protocol):
    """What a backend may also have: workloads for which another attention path is its best."""

    def default_attention(self, checkpoint: Checkpoint, workload: Workload, device: Device) -> str | None:
        """Return the path for this workload where nobody asks for one; None for the first of ``attention_paths``."""


@runtime_checkable
class SharesLoads(Protocol):
    """What a backend may also have: sessions whose figures do not depend on what they generated before."""

    def shares_loads(self, spec: ArtifactSpec, device: Device) -> bool:
        """Return whether one session may serve several workloads: only where benchmarks/shared_loads.py agrees."""


@runtime_checkable
class WeightCopies(Protocol):
    """What a backend may also have: sessions that hold the weights more than once."""

    def weight_copies(self, checkpoint: Checkpoint, options: SessionOptions, device: Device) -> int:
        """Return how often a session's memory holds the weights, the file that is mapped included."""


#: Workloads beyond one prompt and one answer: a conversation on kept K/V, several answers to a prompt that is read
#: once, drawn tokens, steps without a K/V cache, answers that end where the model ends them (see
#: ``Artifact.with_ends``), and pictures before the text.
Ability = Literal["turns", "answers", "random", "uncached", "ends", "pictures"]


@runtime_checkable
class WorkloadAbilities(Protocol):
    """What a backend may also have: what its sessions do beyond one prompt and one answer."""

    def abilities(self, checkpoint: Checkpoint, spec: ArtifactSpec) -> frozenset[Ability]:
        """Return what sessions over that artifact can do."""


@runtime_checkable
class PictureLimits(Protocol):
    """What a backend may also have: why it takes no pictures, or not those of a checkpoint."""

    def picture_refusal(self, checkpoint: Checkpoint) -> str | None:
        """Return the reason and what would work, as the end of a line, or None."""


@dataclass(frozen=True)
class ProbeShape:
    """A chain of matrix products: ``rows`` rows through ``layers`` different matrices ``[width, width]``."""

    rows: int
    width: int
    layers: int

    @property
    def flops(self) -> int:
        """Return the operations of one step: ``2·rows·width²·layers``."""
        return 2 * self.rows * self.width**2 * self.layers

    def weight_bytes(self, item_bytes: int = 4) -> int:
        """Return the bytes of all matrices at so many bytes an element."""
        return self.layers * self.width**2 * item_bytes


@dataclass(frozen=True)
class ProbeGraph:
    """A chain of products, loaded on a device and run once."""

    #: Runs the chain once; returns when the result is there.
    step: Callable[[], None]
    #: The precision the products are computed in, read back from the engine.
    compute_precision: str
    #: Where they are computed, read back where the engine reports it.
    executed_on: str


@runtime_checkable
class LimitsProbe(Protocol):
    """What a backend may also have: pure products, to measure what a device can do at best."""

    def probe_graph(
        self, shape: ProbeShape, compute_precision: ComputePrecision, device: Device, threads: int
    ) -> ProbeGraph:
        """Load a chain of products with weights of ``compute_precision`` (fp32 where the engine converts itself).

        Raises:
            CannotRunError: the engine has no such device or precision; the text says so.
        """


def specs_of(
    backend: Backend, checkpoint: Checkpoint, precision: Precision, device: Device, *, pictures: bool = False
) -> Sequence[ArtifactSpec]:
    """Return the artifacts that a backend takes; of one that the user brings that one alone, never an export of it.

    With ``pictures`` those that take pictures before the text: empty where the backend or the checkpoint cannot.
    """
    specs = backend.artifact_specs(checkpoint, precision, device)
    if checkpoint.given is not None:
        specs = [one for one in specs if one.exporter == "given"]
    if not pictures:
        return specs
    if not isinstance(backend, WorkloadAbilities):
        return []
    with_pictures = [one.model_copy(update={"pictures": True}) for one in specs]
    able = [one for one in with_pictures if "pictures" in backend.abilities(checkpoint, one)]
    # The route that takes most checkpoints comes first: one comparison, one route.
    return sorted(able, key=lambda one: one.exporter == "optimum")


def backend_names() -> list[str]:
    """Return the names of all registered backends, sorted."""
    return sorted({entry.name for entry in entry_points(group=ENTRY_POINT_GROUP)})


def load_backend(name: str) -> Backend:
    """Return the backend registered under ``name``.

    Raises:
        BadInputError: there is none of that name.
        CannotRunError: its package fails to import or does not satisfy the contract.
    """
    found = [entry for entry in entry_points(group=ENTRY_POINT_GROUP) if entry.name == name]
    if not found:
        known = backend_names()
        raise BadInputError(f"unknown backend '{name}'. Known: {', '.join(known)}.{nearest(name, known)}")
    return _instantiate(found[0])


def load_backends() -> tuple[list[Backend], dict[str, str]]:
    """Return every backend that loads, and for each that does not its name and the reason."""
    backends, broken = [], {}
    for name in backend_names():
        try:
            backends.append(load_backend(name))
        except CannotRunError as error:
            broken[name] = str(error)
    return backends, broken


def _instantiate(entry: EntryPoint) -> Backend:
    # Here, where every engine comes in: one import that a backend makes too early, and its library calls home.
    silence_telemetry()
    try:
        backend = entry.load()()
    except Exception as error:  # someone else's plugin: whatever it raises is its failure, not ours
        text = str(error).splitlines()[0] if str(error) else ""
        raise CannotRunError(
            f"backend '{entry.name}' ({entry.value}) fails to load: {type(error).__name__}: {text}"
        ) from error
    if not isinstance(backend, Backend):
        raise CannotRunError(f"backend '{entry.name}' ({entry.value}) does not implement slmbench.backend.Backend")
    return backend
