"""The line protocol between host and worker: one JSON object a line, one reply to each request.

The worker speaks first, with :class:`Hello`. It answers a request it cannot fulfil with :class:`Failed`; one it
does not survive with the end of the pipe.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter

from slmbench.case import Case, Workload
from slmbench.records.quality import WindowFigures
from slmbench.records.schema import FailureReason
from slmbench.terms import StrictModel

#: Raised when a message changes its meaning; host and worker must agree.
PROTOCOL = 7


class Describe(StrictModel):
    """Ask for versions: of these distributions, and of those that these backends need.

    If ``machine``, for the fingerprint of the machine as well.
    """

    do: Literal["describe"] = "describe"
    distributions: tuple[str, ...] = ()
    backends: tuple[str, ...] = ()
    machine: bool = True


class PreparePictures(StrictModel):
    """Prepare pictures for other workers from now on, which show this key; nothing else is asked of such a process."""

    do: Literal["prepare_pictures"] = "prepare_pictures"
    key: str


class PictureProcess(StrictModel):
    """Where such a process is."""

    #: A name of Linux (not a file), or host and port.
    address: str | tuple[str, int]
    key: str


class Open(StrictModel):
    """Load the artifact for a case and run its first inference, of the case's workload."""

    do: Literal["open"] = "open"
    case: Case
    artifact: Path
    #: The artifact's stamp when its hashes were checked; empty: the worker checks them.
    stamp: str = ""
    #: Fields of the backend's options type.
    options: dict[str, Any]
    seed: int
    #: Token ids that prompts are drawn without.
    avoid: tuple[int, ...] = ()
    #: A picture of the user for what comes before the first sample, as in :class:`TakeSample`.
    picture: tuple[Path, str, str] | None = None
    #: Where the checkpoint's own processor of pictures runs, if it has one; None: here.
    picture_process: PictureProcess | None = None
    #: Folder of the ``tokenizer.json``, where texts are read.
    tokenizer: Path | None = None
    #: Whether answers end where the model ends them; else ends of sequence are suppressed.
    natural_ends: bool = False


class Prove(StrictModel):
    """Compare with the golden record: all of it, or the prompt that tells most."""

    do: Literal["prove"] = "prove"
    full: bool


class WarmUp(StrictModel):
    """Prepare for this workload and generate until stationary, at most ``most`` times. ``load`` draws the prompts.

    Samples are of this workload from then on.
    """

    do: Literal["warm_up"] = "warm_up"
    workload: Workload
    load: int
    most: int


class TakeSample(StrictModel):
    """Generate once and stamp every token. Texts, one a row of the batch, take the place of drawn ids."""

    do: Literal["sample"] = "sample"
    round: int
    #: Tells a sample that is taken again from the first.
    retake: int = 0
    texts: tuple[str, ...] = ()
    #: A picture of the user takes the place of drawn ones: its file, the digest of its pixels, its place.
    picture: tuple[Path, str, str] | None = None


class StartJudging(StrictModel):
    """Windows of text will be judged and nothing be timed from here on: give back what they do not need."""

    do: Literal["start_judging"] = "start_judging"
    reference: Path
    windows: Path


class JudgeWindow(StrictModel):
    """Compare one window of text with the reference that is stored in a folder; nothing is timed."""

    do: Literal["judge"] = "judge"
    reference: Path
    #: File of the windows in the checkpoint's tokens; ``window`` is the place of one of them.
    windows: Path
    window: int


class Answer(StrictModel):
    """Answer one prompt greedily, to its natural end or ``most`` tokens; for a session opened with natural ends."""

    do: Literal["answer"] = "answer"
    input_ids: tuple[int, ...]
    most: int


class Exercise(StrictModel):
    """Generate this workload once for a host that watches the process meanwhile; nothing is timed."""

    do: Literal["exercise"] = "exercise"
    workload: Workload


class Close(StrictModel):
    """Free the session and end."""

    do: Literal["close"] = "close"


class Hello(StrictModel):
    """The worker's first line."""

    re: Literal["hello"] = "hello"
    protocol: int
    slmbench: str
    python: str
    pid: int


class Described(StrictModel):
    """Versions by distribution (missing ones left out), backends that cannot run, and the machine's fingerprint."""

    re: Literal["describe"] = "describe"
    versions: dict[str, str]
    #: Why a backend cannot run in this environment; those that can are left out.
    lacking: dict[str, str] = Field(default_factory=dict)
    #: Of the interpreter.
    python: str = ""
    machine: dict[str, Any] = Field(default_factory=dict)


class PreparesPictures(StrictModel):
    """Where it does."""

    re: Literal["prepare_pictures"] = "prepare_pictures"
    address: str | tuple[str, int]


class Opened(StrictModel):
    """Phases of opening, in ns."""

    re: Literal["open"] = "open"
    load_ns: int
    compile_ns: int | None
    first_inference_ns: int


class Proven(StrictModel):
    """What the session showed; the host judges it."""

    re: Literal["prove"] = "prove"
    agreement: float | None
    agreement_tokens: int
    executed_on: str
    nodes: dict[str, int]
    compute_precision: str
    threads: int
    attention_path: str
    cross_kv_once: bool | None
    #: Whether tokens were compared with a reference's; else with the session's own (see slmbench.measure.own_proof).
    reference: bool = True
    #: Further settings by name: what was asked, what is in effect.
    settings: dict[str, tuple[str, str]] = Field(default_factory=dict)


class Warm(StrictModel):
    """How the warm-up went; ``last_ns`` is about the time that the whole workload takes, going by the last one."""

    re: Literal["warm_up"] = "warm_up"
    generations: int
    stationary: bool
    last_ns: int


class Sampled(StrictModel):
    """One generation, in ns from the call of ``start``."""

    re: Literal["sample"] = "sample"
    token_ns: tuple[int, ...]
    phases_ns: dict[str, int]
    #: Those of pictures included.
    input_tokens: int
    image_tokens: int = 0
    #: As in slmbench.records.schema.SampleRecord.
    turn_start_ns: tuple[int, ...] = ()
    turn_tokens: tuple[int, ...] = ()
    energy_j: float | None = None


class JudgingStarted(StrictModel):
    """Windows can be judged."""

    re: Literal["start_judging"] = "start_judging"


class WindowJudged(WindowFigures):
    """The window was compared."""

    re: Literal["judge"] = "judge"


class Answered(StrictModel):
    """One answer; times in ns from the call of ``start``."""

    re: Literal["answer"] = "answer"
    #: Without the end of sequence.
    tokens: tuple[int, ...]
    ttft_ns: int
    #: When the answer was known to be whole: at its end of sequence, or its last token.
    answer_ns: int
    #: Whether the model ended it; else it was cut at ``most`` tokens.
    ended: bool


class Exercised(StrictModel):
    """The generation is over."""

    re: Literal["exercise"] = "exercise"


class Closed(StrictModel):
    """The last line."""

    re: Literal["close"] = "close"


class Failed(StrictModel):
    """The request failed; the worker can be closed."""

    re: Literal["failed"] = "failed"
    reason: FailureReason
    message: str


Request = (
    Describe
    | PreparePictures
    | Open
    | Prove
    | WarmUp
    | TakeSample
    | Answer
    | StartJudging
    | JudgeWindow
    | Exercise
    | Close
)
Reply = (
    Hello
    | Described
    | PreparesPictures
    | Opened
    | Proven
    | Warm
    | Sampled
    | Answered
    | JudgingStarted
    | WindowJudged
    | Exercised
    | Closed
    | Failed
)

REQUEST: TypeAdapter[Request] = TypeAdapter(Annotated[Request, Field(discriminator="do")])
REPLY: TypeAdapter[Reply] = TypeAdapter(Annotated[Reply, Field(discriminator="re")])
