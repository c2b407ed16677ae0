"""Shell completion, as a shell asks for it."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("typed", "expected"),
    [("slmbench ru", {"run"}), ("slmbench run --ba", {"--backend", "--batch"}), ("slmbench cache ve", {"verify"})],
)
def test_commands_and_options_are_completed(typed: str, expected: set[str]) -> None:
    asked = {"_SLMBENCH_COMPLETE": "complete_bash", "COMP_WORDS": typed, "COMP_CWORD": str(len(typed.split()) - 1)}
    code = "from slmbench.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", code], env={**os.environ, **asked}, capture_output=True, text=True)
    assert set(done.stdout.split()) == expected, done.stderr


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_script_for_each_shell(shell: str) -> None:
    code = "import sys; from slmbench.cli import run_main; sys.exit(run_main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, "--show-completion", shell]
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    )
    assert done.returncode == 0, done.stderr
    assert "_SLMBENCH_COMPLETE" in done.stdout
