"""Conversations, shared prompts, drawn tokens and steps without a cache give the tokens of a start from scratch."""

from __future__ import annotations

import gc
from typing import Any

import numpy as np
import pytest

from slmbench.backend import load_backend
from slmbench.case import Workload
from slmbench.errors import CannotRunError
from slmbench.measure.generate import generate
from slmbench.measure.workload import carry_out, prompts_of, reserve, said_tokens
from slmbench.models.artifact import ArtifactSpec
from slmbench.models.checkpoint import resolve

pytest.importorskip("torch", reason="exporting needs slmbench[export]")
from slmbench.export.build import ensure_artifact

BACKENDS = {"openvino": "openvino", "onnxruntime": "onnx", "torch": "torch", "llama_cpp": "gguf"}
CASES = [
    *(("openvino", "llama-tiny"), ("openvino", "t5-tiny")),
    *(("onnxruntime", "llama-tiny"), ("onnxruntime", "bart-tiny")),
    *(("torch", "mistral-tiny"), ("torch", "bart-tiny")),
    ("llama_cpp", "llama-tiny"),
]


@pytest.fixture(scope="module", params=CASES, ids="-".join)
def opened(request: pytest.FixtureRequest) -> Any:
    backend_name, model = request.param
    pytest.importorskip(backend_name, reason="needs slmbench[cpu]")
    backend = load_backend(backend_name)
    exporter = "none" if backend_name == "torch" else "slmbench"
    spec = ArtifactSpec.model_validate({"format": BACKENDS[backend_name], "exporter": exporter})
    artifact = ensure_artifact(resolve(model), spec, progress=lambda _: None)
    session = backend.open(artifact, "cpu", backend.options_type(threads=1))
    # Every generation collects garbage first; torch's modules alone take it half a second.
    gc.freeze()
    yield session, artifact.manifest.checkpoint.family
    session.close()
    gc.unfreeze()


def drawn(work: Workload, seed: int = 0) -> list[Any]:
    ids = np.random.default_rng(seed).integers(10, 700, (work.batch, said_tokens(work)))
    return prompts_of(work, ids)


def run(opened: Any, work: Workload, prompts: list[Any], seed: int = 0) -> Any:
    session, family = opened
    reserve(session, work, family)
    return carry_out(session, work, prompts, None, family, seed=seed)


def from_scratch(opened: Any, prompt: Any, count: int) -> Any:
    session, _ = opened
    session.reserve(len(prompt), prompt.shape[1], count)
    return generate(session, prompt, None, count).tokens


@pytest.mark.parametrize("batch", [1, 2])
def test_every_turn_answers_as_if_all_that_was_said_were_its_prompt(opened: Any, batch: int) -> None:
    work = Workload(batch=batch, input_tokens=20, output_tokens=5, turns=3, added_tokens=7, last_output_tokens=9)
    prompts = drawn(work)
    session, family = opened
    if batch > 1 and family == "decoder-only" and ".onnxruntime." in type(session).__module__:
        with pytest.raises(CannotRunError, match="batch 1 only"):
            run(opened, work, prompts)
        return
    made = run(opened, work, prompts)
    assert made.tokens.shape == (batch, 5 + 5 + 9)
    assert made.turn_tokens == (5, 5, 9)
    context, given = prompts[0], 0
    for turn, count in enumerate(work.outputs()):
        answer = made.tokens[:, given : given + count]
        assert np.array_equal(answer, from_scratch(opened, context, count)), f"turn {turn}"
        # Asked when the answer before it was there, answered after that.
        assert made.turn_start_ns[turn] < made.token_ns[given]
        assert turn == 0 or made.turn_start_ns[turn] >= made.token_ns[given - 1]
        given += count
        if turn + 1 < work.turns:
            context = np.concatenate([context, answer, prompts[turn + 1]], axis=1)
    assert context.shape[1] == work.longest_input


@pytest.mark.parametrize("batch", [1, 2])
def test_samples_of_a_prompt_are_what_it_gives_alone(opened: Any, batch: int) -> None:
    work = Workload(batch=batch, input_tokens=20, output_tokens=8, answers=3)
    prompts = drawn(work)
    for _ in range(2):
        made = run(opened, work, prompts)
        assert np.array_equal(made.tokens, np.repeat(from_scratch(opened, prompts[0], 8), 3, axis=0))


def test_drawn_tokens_depend_on_the_seed_and_rows_differ(opened: Any) -> None:
    work = Workload(input_tokens=20, output_tokens=8, answers=3, sampling="random")
    prompts = drawn(work)
    first, again, other = (run(opened, work, prompts, seed).tokens for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert len({tuple(row) for row in first.tolist()}) == 3
    greedy = run(opened, work.model_copy(update={"sampling": "greedy"}), prompts).tokens
    assert len({tuple(row) for row in greedy.tolist()}) == 1


def test_without_a_cache_the_tokens_are_the_same(opened: Any) -> None:
    work = Workload(input_tokens=20, output_tokens=10, cache="off")
    prompts = drawn(work)
    assert np.array_equal(run(opened, work, prompts).tokens, from_scratch(opened, prompts[0], 10))


class Bare:
    """A session that can do nothing beyond the contract."""

    def start(self, input_ids: Any, attention_mask: Any = None) -> Any:
        return np.zeros(len(input_ids), np.int64)

    def step(self, tokens: Any) -> Any:
        return tokens

    def _nothing(self, *_: Any) -> Any:
        return {}

    reserve = placement = compute_precision = threads = attention_path = load_phases_ns = close = phases_ns = _nothing


@pytest.mark.parametrize(
    ("more", "family", "message"),
    [
        ({"sampling": "random"}, "decoder-only", "draws no tokens"),
        ({"turns": 2, "added_tokens": 3}, "decoder-only", "keeps no K/V"),
        ({"cache": "off"}, "encoder-decoder", "without a K/V cache"),
    ],
)
def test_a_session_that_cannot_is_refused(more: dict[str, Any], family: Any, message: str) -> None:
    work = Workload(input_tokens=4, output_tokens=2, **more)
    with pytest.raises(CannotRunError, match=message):
        carry_out(Bare(), work, drawn(work), None, family)  # type: ignore[arg-type]


def test_turns_of_an_encoder_decoder_need_nothing_beyond_the_contract() -> None:
    work = Workload(input_tokens=4, output_tokens=2, turns=2, added_tokens=3)
    made = carry_out(Bare(), work, drawn(work), None, "encoder-decoder")  # type: ignore[arg-type]
    assert made.turn_tokens == (2, 2)
