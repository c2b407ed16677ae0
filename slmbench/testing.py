"""Conformance: what every backend must do, as functions that a backend's own tests call.

A package that adds a backend needs a few lines of pytest::

    @pytest.fixture(scope="module")
    def subject():
        backend = MyBackend()
        return slmbench.testing.subject(backend, "llama-tiny")

    @pytest.mark.parametrize("check", slmbench.testing.CHECKS, ids=lambda check: check.__name__)
    def test_contract(check, subject):
        check(subject)

Each check raises :class:`ConformanceError`, an ``AssertionError``, whose text says what the contract wants and
what was found. slmbench's own backends pass the same checks.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import get_args

import numpy as np

from slmbench.backend import (
    Backend,
    LoopSession,
    Session,
    SessionOptions,
    Tokens,
    WorkloadAbilities,
)
from slmbench.conformance.check_logits import check_freed_memory, check_logits
from slmbench.conformance.check_pictures import check_pictures, pixels_for
from slmbench.conformance.subject import INPUT_TOKENS, OUTPUT_TOKENS, ConformanceError, Subject, expect, subject
from slmbench.errors import BadInputError, SlmbenchError
from slmbench.evaluation.task_answer import answer
from slmbench.measure.generate import ShortGenerationError
from slmbench.measure.proof import REQUIRED_AGREEMENT, agreement, coarser
from slmbench.models.artifact import Artifact
from slmbench.terms import MARGIN_TOLERANCE, Device, plain_precision

__all__ = ["CHECKS", "ConformanceError", "Subject", "subject"]


def check_description(subject: Subject) -> None:
    """The backend says what it is: names, options, and distributions that are installed."""
    backend = subject.backend
    expect(isinstance(backend, Backend), f"{type(backend).__name__} has everything that slmbench.backend.Backend has")
    expect(bool(backend.name and backend.engine), "name and engine are not empty")
    expect(issubclass(backend.options_type, SessionOptions), "options_type is a subclass of SessionOptions")
    for distribution in backend.distributions:
        try:
            version(distribution)
        except PackageNotFoundError:
            raise ConformanceError(f"distributions names '{distribution}', which is not installed") from None


def check_devices(subject: Subject) -> None:
    """Every device looked for is reported in one line; an absent one with what was found instead and what to do."""
    statuses = subject.backend.devices()
    for status in statuses:
        expect(status.device in get_args(Device), f"'{status.device}' is a device slmbench knows")
        expect("\n" not in status.detail + status.remedy, f"the status of {status.engine_name} is one line")
        expect(bool(status.detail), f"the status of {status.engine_name} says what was found")
        expect(status.available or bool(status.remedy), f"the absent {status.engine_name} comes with a remedy")
    present = [status.device for status in statuses if status.available]
    expect(subject.options.simulate or subject.device in present, f"{subject.device} is among the devices: {present}")


def check_absent_devices_are_refused(subject: Subject) -> None:
    """Opening on a device that is not there is an error, never a session somewhere else."""
    statuses = subject.backend.devices()
    options = subject.options.model_copy(update={"simulate": False})
    for device in {status.device for status in statuses} - {s.device for s in statuses if s.available}:
        try:
            session = subject.backend.open(subject.artifact, device, options)
        except SlmbenchError:
            continue
        session.close()
        raise ConformanceError(f"{device} is absent, yet open() gave a session for it")


def check_refusal(subject: Subject) -> None:
    """The subject itself is not refused; what is refused is refused in one line."""
    manifest = subject.artifact.manifest
    reason = subject.backend.refusal(manifest.checkpoint, manifest.spec, subject.options, subject.device)
    expect(reason is None, f"the artifact that is opened is not refused: {reason}")
    for device in get_args(Device):
        reason = subject.backend.refusal(manifest.checkpoint, manifest.spec, subject.options, device)
        expect(reason is None or (bool(reason) and "\n" not in reason), f"the refusal of {device} is one line")


def check_session_kind(subject: Subject) -> None:
    """A session can be stepped, or brings its own loop; it reports the parts of its loading and its attention."""
    with subject.session() as session:
        expect(isinstance(session, Session | LoopSession), f"{type(session).__name__} is a Session or a LoopSession")
        expect("load" in session.load_phases_ns(), "load_phases_ns has 'load'")
        subject.generate(session, subject.prompt(0))
        expect(bool(session.attention_path()), "attention_path names the path that ran")


def check_placement(subject: Subject) -> None:
    """After an inference the session reports where it ran; a simulation is called by its own name."""
    with subject.session() as session:
        subject.generate(session, subject.prompt(0))
        found = session.placement()
    expect(found.requested == subject.device, f"placement.requested is {subject.device}: {found.requested}")
    if subject.options.simulate:
        expect(found.executed_on not in get_args(Device), f"a simulation is no device: {found.executed_on}")
    else:
        expect(found.executed_on == subject.device, f"executed on {subject.device}: {found.executed_on}")


def check_compute_precision(subject: Subject) -> None:
    """The compute precision in effect is the one asked for."""
    asked = subject.options.compute_precision
    with subject.session() as session:
        subject.generate(session, subject.prompt(0))
        found = session.compute_precision()
    expect(found == asked, f"computes in {asked}: {found}")


def check_threads(subject: Subject) -> None:
    """One thread asked for is one thread in effect, on the CPU."""
    if subject.device != "cpu":
        return
    with subject.session(threads=1) as session:
        subject.generate(session, subject.prompt(0))
        expect(session.threads() == 1, f"1 thread asked, in effect: {session.threads()}")


def check_counts(subject: Subject) -> None:
    """Exactly the tokens asked for, int64, within the vocabulary, and no end of sequence among them."""
    vocabulary = subject.artifact.manifest.checkpoint.geometry.vocab_size
    with subject.session() as session:
        for count in (1, 2, OUTPUT_TOKENS):
            # generate() itself refuses a short answer and an end of sequence.
            tokens = subject.generate(session, subject.prompt(count), count)
            expect(tokens.shape == (1, count) and tokens.dtype == np.int64, f"{count} tokens asked: {tokens.shape}")
            expect(bool((tokens >= 0).all() and (tokens < vocabulary).all()), "tokens lie within the vocabulary")


def check_tokens(subject: Subject) -> None:
    """The reference's tokens come out, as far as the precision can distinguish them."""
    manifest = subject.artifact.manifest
    asked = subject.options.compute_precision
    tolerance = max(MARGIN_TOLERANCE.get(asked, 0.0), MARGIN_TOLERANCE[plain_precision(manifest.spec.weight_precision)])
    required = REQUIRED_AGREEMENT[coarser(manifest.spec.weight_precision, asked)]
    golden = subject.artifact.golden().prompts
    with subject.session() as session:
        # A loop of its own is forced by growing its prompt, so there must be room for the answer in it.
        longest = max(len(prompt.input_ids) + len(prompt.tokens) for prompt in golden)
        if isinstance(session, Session):
            longest = max(len(prompt.input_ids) for prompt in golden)
        session.reserve(1, longest, max(len(prompt.tokens) for prompt in golden))
        found = agreement(session, golden, tolerance, manifest.checkpoint.family, pixels_for(subject.artifact))
    expect(found.compared > 0, "some golden token has a margin that this precision can distinguish")
    expect(found.equal >= required * found.compared, f"{found.equal} of {found.compared} golden tokens came out")


def check_reset(subject: Subject) -> None:
    """Every start forgets what was generated before, finished or not."""
    first, second = subject.prompt(1), subject.prompt(2, length=INPUT_TOKENS // 2)
    with subject.session() as session:
        fresh = subject.generate(session, first)
        subject.generate(session, second)
        expect(np.array_equal(subject.generate(session, first), fresh), "a prompt gives its tokens again after another")
        subject.generate(session, first, 3)
        expect(
            np.array_equal(subject.generate(session, first), fresh), "a prompt gives its tokens again after 3 of them"
        )


def check_teacher_forcing(subject: Subject) -> None:
    """The token that is fed decides the next one: a session steps on what it is given, not on what it chose."""
    with subject.session() as session:
        if not isinstance(session, Session):
            return
        prompt = subject.prompt(3)
        session.reserve(1, INPUT_TOKENS, OUTPUT_TOKENS)
        fed = subject.prompt(4)[0]
        runs = []
        for other in (0, 1):
            session.start(prompt)
            runs.append([int(session.step(fed[place + other : place + other + 1])[0]) for place in range(8)])
    expect(runs[0] != runs[1], "tokens that are fed change what comes next")


def check_batch(subject: Subject) -> None:
    """Prompts of a batch are answered as each by itself; a backend that takes no batch says so when reserving."""
    prompts = subject.prompt(5, batch=2)
    with subject.session() as session:
        try:
            session.reserve(2, INPUT_TOKENS, OUTPUT_TOKENS)
        except SlmbenchError:
            return
        together = subject.generate(session, prompts)
        apart = np.concatenate([subject.generate(session, prompts[row : row + 1]) for row in (0, 1)])
    # Sums are ordered otherwise in a batch; beyond fp32 a token that hangs by a hair may fall differently.
    if subject.options.compute_precision == "fp32":
        expect(np.array_equal(together, apart), "a batch of 2 gives the tokens that each prompt gives alone")
    expect(together.shape == apart.shape, f"a batch of 2 gives {apart.shape} tokens: {together.shape}")


def check_more_than_reserved(subject: Subject) -> None:
    """A longer prompt and more tokens than reserved are refused in one line, never cut or computed wrong."""
    # Static graphs have bounds of their own, see check_impossible_shapes.
    if subject.artifact.manifest.spec.layout == "static":
        return
    long, fitting, count = subject.prompt(9, length=INPUT_TOKENS + 1), subject.prompt(9), 3
    with subject.session() as session:
        session.reserve(1, INPUT_TOKENS, count)
        if not isinstance(session, Session):
            _refused(lambda: session.generate(long, count), "a prompt of one token more than reserved")
            return
        _refused(lambda: session.start(long), "a prompt of one token more than reserved")
        token = session.start(fitting)
        for _ in range(1, count):
            token = session.step(token)
        _refused(lambda: session.step(token), "a step beyond the reserved tokens")


def _refused(call: Callable[[], object], what: str) -> None:
    try:
        call()
    except BadInputError as error:
        expect("\n" not in str(error), f"the refusal of {what} is one line: {error}")
        return
    raise ConformanceError(f"not kept: {what} is refused with a BadInputError")


def check_natural_ends(subject: Subject) -> None:
    """Of ends of sequence a session suppresses those that the checkpoint names; with none named they come through."""
    backend, manifest, prompt = subject.backend, subject.artifact.manifest, subject.prompt(10)
    if not isinstance(backend, WorkloadAbilities) or "ends" not in backend.abilities(
        manifest.checkpoint, manifest.spec
    ):
        return
    with subject.session() as session:
        plain = subject.generate(session, prompt)[0].tolist()
    # The fourth token of the answer, called an end.
    end = plain[3]
    checkpoint = manifest.checkpoint.model_copy(update={"eos_token_ids": (end,)})
    ending = replace(subject.artifact, manifest=manifest.model_copy(update={"checkpoint": checkpoint}))
    named = replace(subject, artifact=ending)
    with named.session() as session:
        try:
            suppressed = end not in named.generate(session, prompt)
        except ShortGenerationError:
            suppressed = False
        expect(suppressed, f"token {end} is suppressed where it is an end of sequence")
    with replace(named, artifact=ending.with_ends()).session() as session:
        session.reserve(1, INPUT_TOKENS, OUTPUT_TOKENS)
        found = answer(session, prompt, OUTPUT_TOKENS, {end})
    expected = plain[: plain.index(end)]
    expect(found.ended and list(found.tokens) == expected, f"the answer ends after {expected}: {list(found.tokens)}")


def check_sessions_are_independent(subject: Subject) -> None:
    """Two sessions at once do not disturb each other."""
    prompts = [subject.prompt(6), subject.prompt(7)]
    with subject.session() as session:
        expected = [subject.generate(session, prompt) for prompt in prompts]
    with subject.session() as first, subject.session() as second:
        if not (isinstance(first, Session) and isinstance(second, Session)):
            found = [subject.generate(one, prompt) for one, prompt in zip((first, second), prompts, strict=True)]
        else:
            found = _interleaved((first, second), prompts)
    expect(all(map(np.array_equal, found, expected)), "sessions that run side by side give what they give alone")


def _interleaved(sessions: Sequence[Session], prompts: Sequence[Tokens]) -> list[Tokens]:
    for session in sessions:
        session.reserve(1, INPUT_TOKENS, OUTPUT_TOKENS)
    current = [session.start(prompt) for session, prompt in zip(sessions, prompts, strict=True)]
    given = [[int(token[0])] for token in current]
    for _ in range(1, OUTPUT_TOKENS):
        current = [session.step(token) for session, token in zip(sessions, current, strict=True)]
        for row, token in zip(given, current, strict=True):
            row.append(int(token[0]))
    return [np.array([row], dtype=np.int64) for row in given]


def check_close(subject: Subject) -> None:
    """Closing frees what a session holds: it can be done before the first inference, and opened again after."""
    with subject.session():
        pass
    with subject.session() as session:
        subject.generate(session, subject.prompt(8))
    with subject.session() as session:
        expect(subject.generate(session, subject.prompt(8)).shape == (1, OUTPUT_TOKENS), "it opens again after close")


def check_damaged_artifact(subject: Subject) -> None:
    """A graph that is cut off ends in an error of slmbench's, one line, not in a stranger's traceback."""
    if not subject.artifact.manifest.graphs:
        return
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "damaged"
        shutil.copytree(subject.artifact.folder, folder)
        damaged = replace(subject, artifact=Artifact(folder, subject.artifact.manifest))
        for relative in subject.artifact.manifest.graphs.values():
            graph = folder / relative
            if graph.is_file():
                graph.write_bytes(graph.read_bytes()[: graph.stat().st_size // 2])
        try:
            with damaged.session():
                pass
        except SlmbenchError as error:
            expect("\n" not in str(error), f"the error is one line: {error}")
            return
    raise ConformanceError("an artifact whose graphs are cut in half was opened without an error")


def check_impossible_shapes(subject: Subject) -> None:
    """A shape beyond a static artifact's bounds is refused when it is reserved, with the figure."""
    spec = subject.artifact.manifest.spec
    if spec.layout != "static" or spec.input_tokens is None or spec.output_tokens is None:
        return
    with subject.session() as session:
        for shape in ((1, spec.input_tokens + 1, 1), (1, 1, spec.output_tokens + 1), (2, 1, 1)):
            try:
                session.reserve(*shape)
            except SlmbenchError as error:
                figure = max(shape) if shape[0] == 1 else 2
                expect(str(figure) in str(error), f"the refusal names {figure}: {error}")
            else:
                raise ConformanceError(f"a static artifact took batch, input and output {shape}")


#: Every check, in the order in which a new backend best meets them.
CHECKS: tuple[Callable[[Subject], None], ...] = (
    check_description,
    check_devices,
    check_refusal,
    check_session_kind,
    check_counts,
    check_tokens,
    check_reset,
    check_teacher_forcing,
    check_logits,
    check_freed_memory,
    check_batch,
    check_more_than_reserved,
    check_placement,
    check_compute_precision,
    check_threads,
    check_natural_ends,
    check_pictures,
    check_sessions_are_independent,
    check_close,
    check_absent_devices_are_refused,
    check_damaged_artifact,
    check_impossible_shapes,
)
