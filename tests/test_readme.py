"""The README's commands: those that measure are planned, the others are run in tests/running/test_runner.py."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from given_files import VALUES, gguf_bytes

from slmbench.cli import run_main

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
COMMANDS = [
    shlex.split(line, comments=True)[1:]
    for block in re.findall(r"```bash\n(.*?)```", README, re.DOTALL)
    for line in block.splitlines()
    if line.startswith("slmbench ")
]
#: Arguments that stand for what a user has.
STAND_INS = {"HuggingFaceTB/SmolLM2-135M": "smollm2-135m", "google/flan-t5-small": "t5-small", "--threads": "--threads"}


def test_there_are_commands() -> None:
    assert len(COMMANDS) >= 8


@pytest.mark.parametrize("arguments", [c for c in COMMANDS if c[0] == "run" and "--prompts" not in c], ids=" ".join)
def test_every_run_can_be_planned(arguments: list[str], tmp_path: Path) -> None:
    known = [STAND_INS.get(one, one) for one in arguments]
    for place, one in enumerate(known):
        if one.endswith(".gguf"):
            pytest.importorskip("llama_cpp", reason="needs slmbench[llama]")
            known[place] = str(tmp_path / one)
            (tmp_path / one).write_bytes(gguf_bytes({**VALUES, "llama.context_length": 4096}))
    if "--threads" in known:
        known[known.index("--threads") + 1] = "1"
    assert run_main([*dict.fromkeys(known[:1]), *known[1:], *([] if "--dry-run" in known else ["--dry-run"])]) == 0


@pytest.mark.parametrize("arguments", [c for c in COMMANDS if len(c) == 1], ids=" ".join)
def test_every_command_that_only_tells_can_be_run(arguments: list[str]) -> None:
    if arguments != ["run"]:
        assert run_main(arguments) == 0


def test_both_set_up_commands_are_marked_for_ci() -> None:
    for name in ("main-job", "tests"):
        assert re.search(rf"<!-- {name} -->\n```bash\n\S.*\n```", README), name
