"""CTranslate2's own loop: tokens of the reference, several rows, what is read back, what it is not right for."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cpu_abilities import need_exact_int8_of_ctranslate2
from rotation import takes_turns, tiny_models

from slmbench.backend import LoopSession, load_backend
from slmbench.cli import run_main
from slmbench.errors import BadInputError, CannotRunError
from slmbench.measure.proof import agreement
from slmbench.models.artifact import Artifact, ArtifactSpec
from slmbench.models.checkpoint import resolve
from slmbench.models.ctranslate2_vocabulary import unfed_ids
from slmbench.running.api import read_run

pytest.importorskip("ctranslate2", reason="needs slmbench[ct2]")
pytest.importorskip("torch", reason="exporting needs slmbench[export]")

from slmbench.export.build import ensure_artifact

#: Models with a sliding window: right only within it (16 tokens in the tiny ones).
WINDOWS = ("gemma3-tiny", "mistral-tiny", "t5gemma-tiny", "t5gemma2-tiny")
#: What CTranslate2's converter does not take, and why.
NOT_TAKEN = {"smollm3-tiny": "No conversion is registered"}


def artifact_of(name: str, precision: str = "fp32") -> Artifact:
    fields = {"format": "ctranslate2", "weight_precision": precision, "exporter": "ctranslate2"}
    return ensure_artifact(resolve(name), ArtifactSpec.model_validate(fields), progress=lambda _: None)


def open_session(artifact: Artifact, compute: str = "fp32") -> Any:
    backend = load_backend("ctranslate2")
    options = backend.options_type.model_validate({"threads": 1, "compute_precision": compute})
    session = backend.open(artifact, "cpu", options)
    assert isinstance(session, LoopSession)
    return session


@pytest.mark.slow
@pytest.mark.parametrize("name", [one for one in tiny_models({"t5-tiny"}) if one not in (*WINDOWS, *NOT_TAKEN)])
def test_every_token_of_the_reference_comes_out(name: str) -> None:
    artifact = artifact_of(name)
    session = open_session(artifact)
    golden = artifact.golden().prompts
    session.reserve(1, max(len(one.input_ids) + len(one.tokens) for one in golden), 24)
    found = agreement(session, golden, 1e-3, artifact.manifest.checkpoint.family)
    assert found.compared > 20
    assert found.equal == found.compared
    session.close()


@pytest.mark.slow
@pytest.mark.parametrize("name", WINDOWS)
def test_beyond_a_sliding_window_it_is_refused(name: str) -> None:
    session = open_session(artifact_of(name))
    session.reserve(1, 8, 8)
    # A T5Gemma 2's encoder looks half of its window ahead and half of it back.
    with pytest.raises(BadInputError, match=f"sliding window of {8 if name == 't5gemma2-tiny' else 16} tokens"):
        session.reserve(1, 24, 8)


@pytest.mark.slow
@pytest.mark.parametrize("name", NOT_TAKEN)
def test_what_the_converter_does_not_take_is_one_line(name: str) -> None:
    with pytest.raises(CannotRunError, match=NOT_TAKEN[name]):
        artifact_of(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["t5-tiny", "llama-tiny"])
def test_rows_of_a_batch_are_those_of_each_prompt_alone(name: str) -> None:
    session = open_session(artifact_of(name))
    prompts = np.random.default_rng(5).integers(10, 900, (3, 20), dtype=np.int64)
    session.reserve(1, 20, 6)
    alone = np.concatenate([session.generate(row[None], 6)[0] for row in prompts])
    session.reserve(3, 20, 6)
    together, stamps = session.generate(prompts, 6)
    assert np.array_equal(together, alone)
    assert len(stamps) == 6
    assert stamps == sorted(stamps)


@pytest.mark.slow
def test_a_compute_type_that_the_processor_lacks_is_an_error() -> None:
    import ctranslate2

    lacking = [one for one in ("fp16", "bf16") if {"fp16": "float16", "bf16": "bfloat16"}[one] not in
               ctranslate2.get_supported_compute_types("cpu")]  # fmt: skip
    if not lacking:
        pytest.skip("this processor has every compute type")
    with pytest.raises(CannotRunError, match="compute type"):
        open_session(artifact_of("t5-tiny", lacking[0]), lacking[0])


@pytest.mark.slow
def test_another_compute_type_than_asked_is_read_back() -> None:
    session = open_session(artifact_of("t5-tiny", "int8"), "int8")
    assert session.compute_precision() == "int8"
    import ctranslate2

    # The engine's own choice for such weights.
    session._engine = ctranslate2.Translator(str(artifact_of("t5-tiny").graph("model").parent), compute_type="auto")
    assert session.compute_precision() != "bf16"
    assert session.placement().executed_on == "cpu"
    assert session.threads() == 1


OPTIONS = ("--backend", "ctranslate2", "--input-tokens", "16", "--output-tokens", "4", "--repeat", "3")


def rows_of_a_pair(precision: str, out: Path, capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    """Return the rows of a run of a pair of tiny models, all of whose tokens are right."""
    asked = ["run", "--pair", "mu-tiny,dec-tiny", "--precision", precision, *OPTIONS, "--out", str(out), "--json"]
    assert run_main(asked) == 0
    rows: list[dict[str, Any]] = json.loads(capsys.readouterr().out)
    assert {(row["model"], row["agreement"]) for row in rows} == {("mu-tiny", 1.0), ("dec-tiny", 1.0)}
    # Nothing that the engine does again at each step: no flag for it, in no row.
    assert not [row for row in rows if "cross K/V" in str(row["flags"])]
    return rows


@takes_turns(2, 4)
@pytest.mark.slow
def test_a_pair_in_8_bits_from_command_to_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    need_exact_int8_of_ctranslate2()
    assert {row["compute_precision"] for row in rows_of_a_pair("int8", tmp_path / "pair", capsys)} == {"int8"}


@takes_turns(2, 4)
@pytest.mark.slow
def test_a_pair_and_a_folder_of_ones_own_from_command_to_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert {row["compute_precision"] for row in rows_of_a_pair("fp32", tmp_path / "pair", capsys)} == {"fp32"}
    mine = artifact_of("t5-tiny").graph("model").parent
    assert (
        run_main(["run", "--model", str(mine), "--reference", "t5-tiny", *OPTIONS, "--out", str(tmp_path / "one")]) == 0
    )
    (load,) = {(one.agreement, one.reference) for one in read_run(tmp_path / "one").run.loads}
    assert load == (1.0, True)


@pytest.mark.slow
def test_a_folder_whose_vocabulary_was_filled_up_with_texts_that_it_has(tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    shutil.copytree(artifact_of("t5-tiny").graph("model").parent, mine)
    (vocabulary,) = mine.glob("*vocabulary.json")
    texts = json.loads(vocabulary.read_text())
    half = len(texts) // 2
    # So many that any prompt drawn without regard to them would hold some.
    vocabulary.write_text(json.dumps(texts[:half] + texts[: len(texts) - half]))
    options = ["--backend", "ctranslate2", "--input-tokens", "16", "--output-tokens", "4", "--repeat", "2"]
    asked = ["run", "--model", str(mine), "--reference", "t5-tiny", *options, "--out", str(tmp_path / "run")]
    assert run_main(asked) == 0
    ((agreed, tokens),) = {(one.agreement, one.agreement_tokens > 20) for one in read_run(tmp_path / "run").run.loads}
    assert (agreed, tokens) == (1.0, True)


@pytest.mark.slow
def test_a_token_that_the_engine_would_read_as_another_is_not_fed() -> None:
    session = open_session(artifact_of("t5-tiny"))
    session._texts[-1] = session._texts[50]
    session._unfed = frozenset(unfed_ids(session._texts, len(session._texts)))
    last = len(session._texts) - 1
    session.reserve(1, 4, 4)
    with pytest.raises(BadInputError, match=f"cannot be fed token {last}: its text is also that of token 50"):
        session.generate(np.array([[60, 61, last, 62]], np.int64), 2)
    with pytest.raises(BadInputError, match=f"cannot be fed token {last}"):
        session.answer_logits(np.array([[60, 61]], np.int64), np.array([[last, 62]], np.int64))
    assert session.generate(np.array([[60, 61, 50, 62]], np.int64), 2)[0].shape == (1, 2)
