"""Command lines out of texts, and whether slmbench's own parser takes them."""

from __future__ import annotations

import re
import shlex

import click
import typer.main

from slmbench.cli import LazyGroup, app


def in_text(text: str) -> list[list[str]]:
    """Return the words of every ``slmbench ...`` in shell blocks and indented blocks, without the program's name."""
    blocks = re.findall(r"^```bash\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    blocks += re.findall(r"(?:^ {4}slmbench .*\n(?:^ {8,}\S.*\n)*)+", text, re.MULTILINE)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [shlex.split(line, comments=True)[1:] for line in lines if line.strip().startswith("slmbench ")]


def parse(words: list[str]) -> None:
    """Have the parser read a command line, without running it.

    Raises:
        click.ClickException, SlmbenchError: what the user would be told.
    """
    group = typer.main.get_command(app)
    assert isinstance(group, LazyGroup)
    with group.make_context("slmbench", list(words)) as context:
        name, command, rest = group.resolve_command(context, list(words))
        assert command is not None
        with command.make_context(name, list(rest), parent=context) as inner:
            if isinstance(command, click.Group) and rest:
                sub, found, more = command.resolve_command(inner, list(rest))
                assert found is not None
                found.make_context(sub, more, parent=inner)
