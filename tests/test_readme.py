"""The README: each command is parsed and planned, its output is from a stored run, and it stays short."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from command_lines import in_text, parse
from given_files import VALUES, gguf_bytes

from slmbench.cli import run_main

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = in_text(README)
#: Arguments that stand for what a user has.
STAND_INS = {"HuggingFaceTB/SmolLM2-135M": "smollm2-135m", "google/flan-t5-small": "t5-small"}
MAX_LINES = 120


def test_it_is_short_and_has_the_five_recipes() -> None:
    assert len(README.splitlines()) <= MAX_LINES
    for recipe in ("A file I have", "Two models", "A pair", "My CI", "An NPU"):
        assert f"**{recipe}**" in README
    assert len(COMMANDS) >= 8


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_the_parser_takes_every_command(words: list[str]) -> None:
    parse(words)


@pytest.mark.parametrize("arguments", [c for c in COMMANDS if c[0] == "run" and "npu" not in c], ids=" ".join)
def test_every_run_can_be_planned(arguments: list[str], tmp_path: Path) -> None:
    # Random weights have no quality: with a stand-in from the catalog it would be refused.
    known = [STAND_INS.get(one, one) for one in arguments if one != "--quality"]
    for place, one in enumerate(known):
        if one.endswith(".gguf"):
            pytest.importorskip("llama_cpp", reason="needs slmbench[llama]")
            known[place] = str(tmp_path / one)
            (tmp_path / one).write_bytes(gguf_bytes({**VALUES, "llama.context_length": 4096}))
    assert run_main([*known, "--dry-run"]) == 0


@pytest.mark.parametrize("arguments", [c for c in COMMANDS if len(c) == 1], ids=" ".join)
def test_every_command_that_only_tells_can_be_run(arguments: list[str]) -> None:
    if arguments != ["run"]:
        assert run_main(arguments) == 0


def test_its_output_is_that_of_a_stored_run() -> None:
    (shown,) = re.findall(r"```\n(model .*?)```", README, re.DOTALL)
    stored = (ROOT / "results/reference/quick/table.md").read_text(encoding="utf-8")
    figures = re.findall(r"[\d.]+x? (?:sooner |faster )?\[[\d., ]+\]", shown)
    assert len(figures) >= 8
    for figure in figures:
        assert figure in stored, figure


def test_a_gate_is_made_of_models_that_are_large_enough() -> None:
    manual = (ROOT / "docs" / "ci.md").read_text(encoding="utf-8")
    action = (ROOT / "action.yml").read_text(encoding="utf-8")
    for text in (*(" ".join(words) for words in COMMANDS), *re.findall(r"(?:run:|^slmbench run) .*", manual, re.M)):
        assert "--suite smoke" not in text
    assert "default: --suite quick" in action
    assert "`--suite smoke` only shows that the road works" in README


def test_both_set_up_commands_are_marked_for_ci() -> None:
    for name in ("main-job", "tests"):
        assert re.search(rf"<!-- {name} -->\n```bash\n\S.*\n```", README), name
