"""Recipes: optimum-intel's own quantisation and the builder's options, from the typed command to the table."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from rotation import takes_turns

from slmbench.cli import run_main
from slmbench.errors import BadInputError
from slmbench.export.recipes import check_recipe, genai_options, with_recipe
from slmbench.models.artifact import ArtifactSpec, Manifest
from slmbench.models.checkpoint import resolve
from slmbench.records.schema import read_run
from slmbench.system.paths import cache_dir

SHORT = ("--input-tokens", "8", "--output-tokens", "4", "--repeat", "1")


def test_artifacts_without_a_recipe_keep_their_names() -> None:
    spec = ArtifactSpec(format="openvino", weight_precision="int4", exporter="optimum")
    assert spec.artifact_id("d") == "6883957e768226e686784ce0f4026c44"
    assert spec.model_copy(update={"recipe": "optimum:default"}).artifact_id("d") != spec.artifact_id("d")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("best", "unknown recipe 'best'. Known: plain, optimum"),
        ("genai", "unknown recipe 'genai'"),
        ("genai:block=32", "unknown option 'block' of the builder"),
        ("genai:int4_block_size=33", "int4_block_size=33: 16, 32, 64"),
        ("genai:int4_accuracy_level=1", "int4_accuracy_level=1: 4 are possible"),
    ],
)
def test_unknown_recipes_are_refused(text: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(BadInputError, match=said):
        check_recipe(text)
    assert run_main(["run", "--model", "dec-tiny", "--recipe", text, *SHORT]) == 2
    assert said in capsys.readouterr().err


def test_options_come_in_one_order() -> None:
    assert check_recipe("genai:int4_block_size=64,int4_algo_config=rtn") == (
        "genai:int4_algo_config=rtn,int4_block_size=64"
    )
    assert genai_options("genai:int4_algo_config=rtn") == {"int4_algo_config": "rtn"}


def test_a_recipe_is_for_artifacts_of_its_kind() -> None:
    model = resolve("llama-tiny")
    quantised = ArtifactSpec(format="openvino", weight_precision="int4", exporter="optimum")
    exact = ArtifactSpec(format="openvino", exporter="optimum")
    assert with_recipe(quantised, model, "optimum:default").recipe == "optimum:default"
    assert with_recipe(exact, model, "optimum:default").recipe is None
    with pytest.raises(BadInputError, match="llama-tiny is no Hub id, so name the model"):
        with_recipe(quantised, model, "optimum")
    builder = ArtifactSpec(format="onnx", weight_precision="int4", exporter="slmbench")
    with pytest.raises(BadInputError, match="add --exporter genai"):
        with_recipe(builder, model, "genai:int4_block_size=64")


def test_a_recipe_that_makes_nothing_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("openvino", reason="needs slmbench[cpu]")
    asked = ["run", "--model", "dec-tiny", "--backend", "openvino", "--recipe", "optimum:default", *SHORT]
    assert run_main(asked) == 2
    assert "nothing here is made by it; it is for OpenVINO's graphs in int8 and int4" in capsys.readouterr().err


def rows(folder: Path, capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    capsys.readouterr()
    assert run_main(["table", str(folder), "--json"]) == 0
    found: list[dict[str, Any]] = json.loads(capsys.readouterr().out)
    return found


@takes_turns(3, 4)
@pytest.mark.slow
def test_optimums_own_quantisation_from_the_command_to_the_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A folder with a tokenizer, by a configuration that is calibrated with text (scale estimation)."""
    pytest.importorskip("optimum.intel", reason="exporting needs slmbench[export]")
    from slmbench.export.ort_genai import _save_checkpoint

    folder = _save_checkpoint(resolve("llama-tiny"), tmp_path / "mine")
    recipe, out = "optimum:stabilityai/stablelm-zephyr-3b", tmp_path / "run"
    asked = ["run", "--model", str(folder), "--backend", "openvino", "--exporter", "optimum", "--precision", "int4"]
    assert run_main([*asked, "--recipe", recipe, *SHORT, "--out", str(out)]) == 0
    (row,) = rows(out, capsys)
    assert (row["recipe"], row["weight_precision"]) == (recipe, "int4")
    assert f"|recipe={recipe}" in row["case"]
    (info,) = read_run(out).record.cases
    assert '"group_size": 128' in info.recipe["configuration"]
    assert "instead of wikitext2" in info.recipe["calibration text"]
    assert info.artifact_id is not None
    kept = cache_dir() / "artifacts" / info.artifact_id / "manifest.json"
    manifest = Manifest.model_validate_json(kept.read_text(encoding="utf-8"))
    assert manifest.recipe == info.recipe
    assert manifest.spec.recipe == recipe
    # With a text of one's own, wherever it is: another artifact, which knows the text by its digest alone.
    (tmp_path / "my.txt").write_text("Rain fell on the harbour all night, and nobody slept. " * 40, encoding="utf-8")
    assert (
        run_main([*asked, "--recipe", f"{recipe},text={tmp_path / 'my.txt'}", *SHORT, "--out", str(out) + "-own"]) == 0
    )
    (own,) = read_run(Path(f"{out}-own")).record.cases
    assert own.artifact_id != info.artifact_id
    assert own.recipe["calibration text"].startswith("your text (")
    (row,) = rows(Path(f"{out}-own"), capsys)
    assert re.fullmatch(re.escape(recipe) + ",text=[0-9a-f]{16}", row["recipe"])
    (tmp_path / "my.txt").unlink()
    assert run_main(["run", "--resume", f"{out}-own"]) == 0
    (tmp_path / "other.txt").write_text("A text that nobody reads.", encoding="utf-8")
    unused = [
        *asked,
        "--recipe",
        f"optimum:default,text={tmp_path / 'other.txt'}",
        *SHORT,
        "--out",
        str(tmp_path / "unused"),
    ]
    assert run_main(unused) == 5
    assert "is not calibrated; leave ,text= out" in capsys.readouterr().err.replace("\n", " ")
    assert run_main([*asked, "--recipe", "optimum:default,text=none.txt", *SHORT]) == 2
    assert "none.txt: " in capsys.readouterr().err
    unknown = [*asked, "--recipe", "optimum:org/nobody", *SHORT, "--out", str(tmp_path / "no")]
    assert run_main(unknown) == 5
    assert "optimum-intel has no int4 configuration of org/nobody" in capsys.readouterr().err.replace("\n", " ")


@pytest.mark.slow
def test_the_builders_options_reach_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("onnxruntime_genai", reason="needs slmbench[cpu]")
    pytest.importorskip("torch", reason="exporting needs slmbench[export]")
    asked = ["run", "--model", "llama-tiny", "--backend", "onnxruntime_genai", "--exporter", "genai"]
    asked += ["--precision", "int4", *SHORT]
    bits = {}
    for recipe in ("plain", "genai:int4_algo_config=k_quant_last"):
        assert run_main([*asked, "--recipe", recipe, "--out", str(tmp_path / recipe)]) == 0
        (row,) = rows(tmp_path / recipe, capsys)
        bits[recipe] = row["bits_per_weight"]
    # Its last product, the LM head, is in 8 bits.
    assert bits["genai:int4_algo_config=k_quant_last"] > bits["plain"] + 0.1
