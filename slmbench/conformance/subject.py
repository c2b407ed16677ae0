"""What conformance checks are made on, and the error that says what is not kept; ``slmbench.testing`` hands them on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np

from slmbench.backend import Backend, LoopSession, Session, SessionOptions, Tokens, specs_of
from slmbench.errors import BadInputError
from slmbench.measure.generate import generate
from slmbench.models.artifact import Artifact, ArtifactSpec
from slmbench.models.checkpoint import resolve
from slmbench.terms import Device, Precision

#: What the checks generate; within the bounds of any artifact that :func:`subject` makes.
INPUT_TOKENS = 32
OUTPUT_TOKENS = 12

OpenSession = Session | LoopSession


class ConformanceError(AssertionError):
    """A backend does not keep the contract."""


@dataclass(frozen=True)
class Subject:
    """What is checked: a backend with an artifact it takes, a device, and the options to open it with."""

    backend: Backend
    artifact: Artifact
    device: Device = "cpu"
    options: SessionOptions = field(default_factory=SessionOptions)

    @contextmanager
    def session(self, **changes: object) -> Iterator[OpenSession]:
        """Open a session (with some options changed), and close it at the end."""
        opened = self.backend.open(self.artifact, self.device, self.options.model_copy(update=changes))
        try:
            yield opened
        finally:
            opened.close()

    def prompt(self, seed: int, batch: int = 1, length: int = INPUT_TOKENS) -> Tokens:
        """Return random token ids ``[batch, length]`` that hold no special token."""
        checkpoint = self.artifact.manifest.checkpoint
        special = {*checkpoint.eos_token_ids, checkpoint.pad_token_id, checkpoint.decoder_start_token_id}
        if checkpoint.vision is not None:
            special.add(checkpoint.vision.image_token_id)
        allowed = [token for token in range(4, checkpoint.geometry.vocab_size) if token not in special]
        return np.random.default_rng(seed).choice(np.array(allowed, dtype=np.int64), size=(batch, length))

    def generate(self, session: OpenSession, prompt: Tokens, count: int = OUTPUT_TOKENS) -> Tokens:
        """Reserve, and generate ``count`` tokens a prompt: ``[batch, count]``."""
        session.reserve(len(prompt), prompt.shape[1], count)
        return generate(session, prompt, None, count, self.artifact.manifest.checkpoint.eos_token_ids).tokens


def subject(
    backend: Backend,
    checkpoint: str = "llama-tiny",
    *,
    device: Device = "cpu",
    precision: Precision = "fp32",
    options: SessionOptions | None = None,
    spec: ArtifactSpec | None = None,
    pictures: bool = False,
) -> Subject:
    """Return a subject: the artifact the backend prefers for a catalog checkpoint, exported if need be.

    With ``pictures`` an artifact that takes pictures before the text.

    Raises:
        BadInputError: the backend takes no artifact of that checkpoint and precision.
        CannotRunError: the export fails or lacks a library.
    """
    from slmbench.export.build import ensure_artifact

    found = resolve(checkpoint)
    chosen = spec or next(iter(specs_of(backend, found, precision, device, pictures=pictures)), None)
    if chosen is None:
        raise BadInputError(f"{backend.name} takes no artifact of {checkpoint} in {precision} on {device}")
    if chosen.layout == "static" and chosen.input_tokens is None:
        chosen = chosen.model_copy(update={"input_tokens": 2 * INPUT_TOKENS, "output_tokens": 2 * OUTPUT_TOKENS})
    artifact = ensure_artifact(found, chosen, progress=lambda _: None)
    return Subject(backend, artifact, device, options or backend.options_type())


def expect(kept: bool, what: str) -> None:
    """Raise where the contract is not kept; ``what`` says what it wants, and what was found after a colon."""
    if not kept:
        raise ConformanceError(f"not kept: {what}")
