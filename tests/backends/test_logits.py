"""The logits behind the tokens are torch's, not only the largest of them: a wrong scale changes no greedy token."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from rotation import tiny_models

from slmbench import testing
from slmbench.backend import GivesAnswerLogits, load_backend
from slmbench.errors import BadInputError, CannotRunError
from slmbench.evaluation.stored_reference import log_probabilities

pytest.importorskip("torch", reason="needs slmbench[torch]")

PROMPT_SEED = 10
#: Tokens that every engine is told were the answer.
ANSWER = [17, 99, 23, 41]


def logits_of(session: Any, prompt: NDArray[np.int64], answer: list[int]) -> NDArray[np.float32]:
    """Return the logits ``[n, vocabulary]`` behind each token of an answer that is forced."""
    if isinstance(session, GivesAnswerLogits):
        return np.array([np.array(row) for row in session.answer_logits(prompt, np.array([answer], np.int64))])
    session.start(prompt)
    found = [np.array(session.logits()[0])]
    for token in answer[:-1]:
        session.step(np.array([token], np.int64))
        found.append(np.array(session.logits()[0]))
    return np.stack(found)


def said_by(backend: str, model: str) -> tuple[Any, NDArray[np.int64], Any]:
    """Return the logits of an engine in fp32, the prompt, and the ids that are never given."""
    subject = testing.subject(load_backend(backend), model)
    session = subject.backend.open(subject.artifact, "cpu", subject.options)
    try:
        session.reserve(1, 2 * testing.INPUT_TOKENS, testing.OUTPUT_TOKENS)
        prompt = subject.prompt(PROMPT_SEED)
        return logits_of(session, prompt, ANSWER), prompt, subject.artifact.manifest.checkpoint.eos_token_ids
    finally:
        session.close()


@cache
def reference_of(model: str) -> tuple[Any, NDArray[np.int64], Any]:
    return said_by("torch", model)


@pytest.mark.parametrize("backend", ["openvino", "onnxruntime", "llama_cpp", "ctranslate2"])
@pytest.mark.parametrize("model", tiny_models({"flan-t5-tiny"}))
@pytest.mark.slow
def test_an_engine_in_fp32_predicts_what_torch_does(model: str, backend: str) -> None:
    """CTranslate2 scaled the logits of a T5 whose head is not its embedding: same tokens, KL 7 nats."""
    pytest.importorskip(backend)
    reference, prompt, ends = reference_of(model)
    try:
        found, same_prompt, _ = said_by(backend, model)
    except (CannotRunError, BadInputError) as error:
        pytest.skip(f"{backend} does not run {model}: {error}")
    assert np.array_equal(prompt, same_prompt)
    for theirs, ours in zip(reference, found, strict=True):
        expected, given = log_probabilities(theirs, ends), log_probabilities(ours, ends)
        shown = np.isfinite(expected)
        assert np.sum(np.exp(expected[shown]) * (expected[shown] - given[shown])) < 1e-4
