"""A machine with an engine and no exporters takes part: the client sends it what it opens."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from known_limits import keep_limits
from rotation import takes_turns

from slmbench.cli import run_main

pytest.importorskip("distributed", reason="the extra slmbench[fleet] is not installed")
pytest.importorskip("openvino", reason="the extra slmbench[cpu] is not installed")
MODEL = ["--model", "dec-tiny", "--backend", "openvino", "--input-tokens", "16", "--output-tokens", "4"]


def environment(cache: Path) -> dict[str, str]:
    keep_limits(cache)
    return {**os.environ, "PYTHONPATH": str(Path(__file__).with_name("no_torch")), "SLMBENCH_CACHE": str(cache)}


def folder_with_tokenizer(folder: Path) -> Path:
    """Save ``dec-tiny`` as people keep a model of their own."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace

    from slmbench.export.torch_model import load_model
    from slmbench.models.checkpoint import resolve

    load_model(resolve("dec-tiny")).save_pretrained(folder)
    tokenizer = Tokenizer(WordLevel({"[UNK]": 3, **{f"w{i}": i + 4 for i in range(20)}}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


@contextmanager
def node(*arguments: str, env: dict[str, str] | None = None, log: Path | None = None) -> Iterator[str]:
    """Run ``slmbench fleet ...`` and yield the last word of its first line; ``log`` gets what it says after that."""
    process = subprocess.Popen(
        [sys.executable, "-m", "slmbench", "fleet", *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT if log else None, text=True, env=env,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        yield process.stdout.readline().split()[-1]
    finally:
        process.terminate()
        said, _ = process.communicate()
        if log:
            log.write_text(said, encoding="utf-8")


def test_without_torch_a_plan_is_made_and_nothing_can_be_exported(tmp_path: Path) -> None:
    request = '{"models": ["mu-tiny", "dec-tiny"], "backends": ["openvino"]}'
    done = subprocess.run(
        [sys.executable, "-P", "-m", "slmbench.fleet.machine_job", "plan"],
        input=request, capture_output=True, text=True, env=environment(tmp_path), check=True,
    )  # fmt: skip
    planned = json.loads(done.stdout)
    assert len(planned["keys"]) >= 2
    assert {need["state"] for need in planned["needs"]} == {"lacks"}
    assert planned["needs"][0]["why"] == "not installed: nncf"


@pytest.mark.slow
@takes_turns(0, 2)
def test_a_machine_without_torch_is_sent_the_artifact_and_measures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    machine = environment(tmp_path / "tablet")
    with (
        node("scheduler", "--port", "0") as address,
        node("worker", "--scheduler", address, "--name", "tablet", env=machine),
    ):
        assert run_main(["run", "--fleet", address, *MODEL, "--repeat", "1", "--out", str(out), "--json"]) == 0
    captured = capsys.readouterr()
    (row,) = json.loads(captured.out)
    assert (row["machine"], row["agreement"]) == ("tablet", 1.0)
    assert "tablet: dec-tiny openvino fp32 (optimum): is there, 18.4 MB sent" in captured.err
    record = json.loads((out / "machines" / "tablet" / "1" / "run.json").read_text(encoding="utf-8"))
    assert "torch" not in json.dumps(record["machines"])
    stored = list((tmp_path / "tablet" / "artifacts").iterdir())
    assert [folder.name for folder in stored] == [record["cases"][0]["artifact_id"]]


@pytest.mark.slow
@takes_turns(1, 2)
def test_prompts_and_the_tokenizer_that_reads_them_travel(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, machine = tmp_path / "run", environment(tmp_path / "tablet")
    folder = folder_with_tokenizer(tmp_path / "mine")
    texts = tmp_path / "questions.jsonl"
    texts.write_text('{"prompt": "w1 w2"}\n"w3 w4 w5 w6"\n', encoding="utf-8")
    model = ["--model", str(folder), "--prompts", str(texts), "--backend", "openvino", "--output-tokens", "4"]
    with (
        node("scheduler", "--port", "0") as address,
        node("worker", "--scheduler", address, "--name", "tablet", env=machine),
    ):
        run = ["run", "--fleet", address, *model, "--repeat", "2", "--out", str(out), "--json"]
        assert run_main(run) == 0
        captured = capsys.readouterr()
        (row,) = json.loads(captured.out)
        assert (row["machine"], row["agreement"]) == ("tablet", 1.0)
        assert row["ttft_text_s"] > row["ttft_s"]
        assert "tablet: tokenizer.json: is there" in captured.err
        lines = (out / "machines" / "tablet" / "1" / "samples.jsonl").read_text(encoding="utf-8").splitlines()
        assert {one["input_tokens"] for one in map(json.loads, lines) if one["type"] == "sample"} == {2, 4}
        texts.write_text("w1\n", encoding="utf-8")
        assert run_main(["run", "--fleet", address, "--resume", str(out), "--prompts", str(texts)]) == 2
        assert "was started with other texts than" in capsys.readouterr().err
