"""What a backend must do with pictures before the text, where it says that it can; ``slmbench.testing`` hands it on."""

from __future__ import annotations

import numpy as np

from slmbench.backend import Pixels, Session, TakesPictures, Tokens, WorkloadAbilities
from slmbench.conformance.subject import ConformanceError, Subject, expect
from slmbench.errors import BadInputError
from slmbench.measure.pictures import pixels_of
from slmbench.measure.proof import PixelsOf
from slmbench.models.artifact import Artifact, GoldenPrompt

#: Answers of so many tokens are compared.
_TOKENS = 8


def check_pictures(subject: Subject) -> None:
    """A picture is looked at once and decides the answer; one that has no place, or no artifact for it, is refused."""
    manifest, backend = subject.artifact.manifest, subject.backend
    if not manifest.spec.pictures:
        with subject.session() as session:
            if isinstance(session, TakesPictures):
                pixels = {"pixel_values": np.zeros((1, 3, 8, 8), np.float32)}
                _refused(session, pixels, "a picture for an artifact that was made for text alone")
        return
    able = backend.abilities(manifest.checkpoint, manifest.spec) if isinstance(backend, WorkloadAbilities) else ()
    expect("pictures" in able, "a backend that opens artifacts with pictures has the ability 'pictures'")
    shown = pixels_for(subject.artifact)
    assert shown is not None
    one, other = subject.artifact.golden().prompts
    with subject.session() as session:
        if not (isinstance(session, Session) and isinstance(session, TakesPictures)):
            raise ConformanceError("not kept: a session over an artifact with pictures takes them")
        session.reserve(1, len(one.input_ids) + len(other.input_ids), _TOKENS)
        first, second = shown(one.pictures), shown(other.pictures)
        expected = _answer(session, one, first)
        expect("vision" in session.phases_ns(), "the first start after a picture has the phase 'vision'")
        expect(_answer(session, one, None) == expected, "a start after it gives the same answer")
        expect("vision" not in session.phases_ns(), "a start without a new picture has no phase 'vision'")
        same_text = [token for token in other.input_ids if token != _token(subject)]
        expect(same_text == [token for token in one.input_ids if token != _token(subject)], "golden texts are alike")
        expect(_answer(session, other, second) != expected, "another picture before the same text changes the answer")
        expect(_answer(session, one, first) == expected, "the first picture gives its answer again")
        text = np.array([same_text], np.int64)
        _start_refused(session, text, "a prompt without a place for the picture")
        _refused(session, {"no such input": np.zeros((1, 3, 8, 8), np.float32)}, "tensors that the graph does not take")
        session.take_pictures({})
        session.start(text)
        _start_refused(session, np.array([one.input_ids], np.int64), "places for a picture that is not there")


def pixels_for(artifact: Artifact) -> PixelsOf | None:
    """Return what makes the pixel tensors of an artifact's golden pictures; None where it takes none."""
    manifest = artifact.manifest
    return pixels_of(manifest.checkpoint, artifact.processor_home) if manifest.spec.pictures else None


def _token(subject: Subject) -> int:
    vision = subject.artifact.manifest.checkpoint.vision
    return -1 if vision is None else vision.image_token_id


def _answer(session: Session, prompt: GoldenPrompt, pixels: Pixels | None) -> list[int]:
    """Return the answer to a prompt with these pictures, or with those before; ``phases_ns`` is that of its start."""
    if pixels is not None and isinstance(session, TakesPictures):
        session.take_pictures(pixels)
    tokens = [session.start(np.array([prompt.input_ids], np.int64))]
    for _ in range(1, _TOKENS):
        tokens.append(session.step(tokens[-1]))
    return [int(token[0]) for token in tokens]


def _start_refused(session: Session, ids: Tokens, what: str) -> None:
    try:
        session.start(ids)
    except BadInputError as error:
        expect("\n" not in str(error), f"the refusal of {what} is one line: {error}")
        return
    raise ConformanceError(f"not kept: {what} is refused with a BadInputError")


def _refused(session: TakesPictures, pixels: Pixels, what: str) -> None:
    try:
        session.take_pictures(pixels)
    except BadInputError as error:
        expect("\n" not in str(error), f"the refusal of {what} is one line: {error}")
        return
    raise ConformanceError(f"not kept: {what} is refused with a BadInputError")
