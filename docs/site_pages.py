"""MkDocs hook: pages that are made from the code, and files outside docs/ that pages link to.

Pages under ``reference/`` come from the command line itself, the docstrings of the Python API and the JSON Schemas.
"""

from __future__ import annotations

import inspect
import json
import re
import tomllib
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path, PurePosixPath
from typing import Any

import click
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
_LINK = re.compile(r"(!?)\[((?:[^\]]|\]\()*?)\]\((\.\./[^)\s#]+)(#[^)]*)?\)")
#: Where files of the repository are on the site.
OUTSIDE = "repository"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add what is generated, and what pages link to outside docs/."""
    made = {
        "index.md": _index(),
        "reference/cli.md": _cli(),
        "reference/python.md": _python(),
        "reference/files.md": _files(),
    }
    wanted = {ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"}
    wanted.update(ROOT / place for place in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", made["index.md"]))
    made["index.md"] = re.sub(r"(!\[[^\]]*\]\()(results/)", rf"\1{OUTSIDE}/\2", made["index.md"])
    for name, text in made.items():
        files.append(File.generated(config, name, content=text))
    for page in files.documentation_pages():
        if page.abs_src_path is not None:
            text = Path(page.abs_src_path).read_text(encoding="utf-8")
            folder = Path(page.abs_src_path).parent
            wanted.update((folder / link[3]).resolve() for link in _LINK.finditer(text))
    for path in sorted(wanted):
        if _is_outside(path) and path.suffix in (".md", ".png"):
            name = f"{OUTSIDE}/{path.relative_to(ROOT).as_posix()}"
            files.append(File.generated(config, name, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:  # noqa: ARG001 (mkdocs' signature)
    """Lead links that leave docs/ to the copies on the site; where there is none, keep the words alone."""
    here = PurePosixPath(page.file.src_uri)
    markdown = markdown.replace("<!-- layers -->", _drawn_layers())
    # Pages of the repository's root have links from there.
    folder = ROOT if here.parts[0] == OUTSIDE and len(here.parts) == 2 else ROOT / "docs" / here.parent
    if here.parts[0] == OUTSIDE:
        if len(here.parts) > 2:
            return markdown
        return re.sub(
            r"(!?)\[([^\]]*)\]\(((?!https?:|#)[^)#\s]+)(#[^)]*)?\)",
            lambda m: _moved(m, (folder / m[3]).resolve(), here, files),
            markdown,
        )
    return _LINK.sub(lambda m: _moved(m, (folder / m[3]).resolve(), here, files), markdown)


def _moved(link: re.Match[str], target: Path, here: PurePosixPath, files: Files) -> str:
    if not target.is_relative_to(ROOT):
        return link[2]
    place = target.relative_to(ROOT).as_posix()
    place = place.removeprefix("docs/") if place.startswith("docs/") else f"{OUTSIDE}/{place}"
    if files.get_file_from_path(place) is None:
        return link[2]
    up = "../" * (len(here.parts) - 1)
    return f"{link[1]}[{link[2]}]({up}{place}{link[4] or ''})"


def _is_outside(path: Path) -> bool:
    return path.is_file() and path.is_relative_to(ROOT) and not path.is_relative_to(ROOT / "docs")


def _index() -> str:
    """Return the README, with links as seen from docs/."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    text = re.sub(r"\]\(docs/", "](", text)
    text = re.sub(r"\]\((?!https?:|#)((?:CONTRIBUTING|CHANGELOG)\.md)", rf"]({OUTSIDE}/\1", text)
    return re.sub(
        r"(?<!!)\[([^\]]*)\]\((?:LICENSE|results/[^)]*|examples/[^)]*|SECURITY\.md|CITATION\.cff)\)", r"\1", text
    )


def _cli() -> str:
    """Return every command with its options, from the parser itself."""
    import typer.main

    from slmbench.cli import COMMANDS
    from slmbench.cli._examples import EXAMPLES
    from slmbench.errors import ExitCode

    parts = ["# Command line", "", "Exit codes of every command:", "", "| code | name |", "|---|---|"]
    parts += [f"| {int(code)} | {code.name.lower().replace('_', ' ')} |" for code in ExitCode]
    for name, (module, _) in COMMANDS.items():
        command = typer.main.get_command(import_module(f"slmbench.cli.{module}").app)
        parts += ["", *_command(f"slmbench {name}", command, 2), "", "```bash"]
        parts += [*(f"slmbench {line}" for line in EXAMPLES[name]), "```"]
    return "\n".join(parts) + "\n"


def _command(title: str, command: click.Command, level: int) -> Iterator[str]:
    yield f"{'#' * level} `{title}`"
    yield ""
    yield inspect.cleandoc(command.help or "").replace("\n\b\n", "\n")
    context = click.Context(command, info_name=title)
    rows = [row for parameter in command.get_params(context) if (row := _parameter(parameter, context))]
    if rows:
        yield from ("", "| option | what | default |", "|---|---|---|", *rows)
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            found = command.get_command(context, name)
            if found is not None:
                yield ""
                yield from _command(f"{title} {name}", found, level + 1)


def _parameter(parameter: click.Parameter, context: click.Context) -> str | None:
    if isinstance(parameter, click.Option):
        if parameter.hidden or "--help" in parameter.opts:
            return None
        names = ", ".join(f"`{name}`" for name in (*parameter.opts, *parameter.secondary_opts))
        if not parameter.is_flag:
            names += f" {parameter.make_metavar(context)}".replace("|", "\\|")
    else:
        names = f"`{parameter.make_metavar(context)}`".replace("|", "\\|")
    shown = getattr(parameter, "show_default", None)
    default = parameter.get_default(context, call=False)
    if isinstance(shown, str):
        default = shown
    elif default is None or default is False or default == () or callable(default):
        default = "required" if parameter.required else ""
    text = " ".join((getattr(parameter, "help", None) or "").split()).replace("|", "\\|")
    return f"| {names} | {text} | {default} |"


def _python() -> str:
    """Return the public functions with signatures and docstrings."""
    import slmbench
    import slmbench.backend
    import slmbench.errors
    import slmbench.testing

    parts = ["# Python", "", inspect.cleandoc(slmbench.__doc__ or "")]
    for module in (slmbench, slmbench.testing, slmbench.errors, slmbench.backend):
        if module is not slmbench:
            parts += ["", f"## `{module.__name__}`", "", inspect.cleandoc(module.__doc__ or "")]
        for name in module.__all__:
            found = getattr(module, name)
            if inspect.isfunction(found) or inspect.isclass(found):
                parts += ["", *_documented(f"{module.__name__}.{name}", found)]
    return "\n".join(parts) + "\n"


def _documented(title: str, found: Any) -> Iterator[str]:
    yield f"### `{title}`"
    yield ""
    if inspect.isfunction(found):
        yield from ("```python", _signature(title, found), "```", "")
    yield _text(found)
    if inspect.isclass(found):
        for name, member in vars(found).items():
            if name.startswith("_"):
                continue
            if inspect.isfunction(member):
                yield from ("", "```python", _signature(name, member), "```", "", _text(member))
            elif isinstance(member, property):
                yield from ("", f"**`{name}`**: {_text(member)}")


def _signature(name: str, function: Any) -> str:
    signature = inspect.signature(function)
    whole = _unquoted(f"{name}{signature}")
    if len(whole) <= 100:
        return whole
    lines = [_unquoted(f"    {parameter},") for parameter in signature.parameters.values()]
    if any(one.kind is one.KEYWORD_ONLY for one in signature.parameters.values()):
        first = next(i for i, one in enumerate(signature.parameters.values()) if one.kind is one.KEYWORD_ONLY)
        lines.insert(first, "    *,")
    result = signature.return_annotation
    return "\n".join([f"{name}(", *lines, f") -> {result if isinstance(result, str) else result.__name__}"])


def _unquoted(text: str) -> str:
    """Return a signature whose annotations are not shown as strings."""
    return re.sub(r"(: |-> )'([^']*)'", r"\1\2", text)


def _text(found: Any) -> str:
    """Return a docstring as Markdown: names in double backticks, roles as plain names, exceptions as a list."""
    text = inspect.cleandoc(found.__doc__ or "")
    text = re.sub(r":\w+:`~?\.?([^`]*)`", r"`\1`", text).replace("``", "`")
    head, mark, raised = text.partition("\nRaises:\n")
    if mark:
        listed = " ".join(inspect.cleandoc(raised).split("\n"))
        head += "\n\nRaises: " + listed
    return re.sub(r"(?m)^Args:$", "Arguments:\n", head)


def _files() -> str:
    """Return the fields of the files that a run writes, from the published schemas."""
    parts = [
        "# Files of a run",
        "",
        "`run.json` says what was asked, where and with what; `samples.jsonl` holds every sample, as it was taken. "
        "Tables and reports are made from these two, and can be made again: `slmbench table results/RUN`. Times are in "
        "nanoseconds in `samples.jsonl`, in seconds in `table.csv` and `table --json`.",
    ]
    for name in ("run", "sample", "quality", "answers"):
        schema = json.loads((ROOT / "docs" / "schema" / f"{name}.schema.json").read_text(encoding="utf-8"))
        parts += ["", f"## {schema.get('title', name)}", "", f"[{name}.schema.json](../schema/{name}.schema.json)"]
        for title, one in [("", schema), *sorted(schema.get("$defs", {}).items())]:
            if one.get("properties"):
                parts += ["", *_fields(title, one)]
    return "\n".join(parts) + "\n"


def _fields(title: str, schema: dict[str, Any]) -> Iterator[str]:
    if title:
        yield f"### {title}"
        yield ""
    yield " ".join(str(schema.get("description", "")).split()).replace("``", "`")
    yield from ("", "| field | type | |", "|---|---|---|")
    for name, field in schema["properties"].items():
        text = " ".join(str(field.get("description", "")).split()).replace("|", "\\|").replace("``", "`")
        yield f"| `{name}` | {_type(field)} | {text} |"


def _type(field: dict[str, Any]) -> str:
    if "$ref" in field:
        return str(field["$ref"]).rpartition("/")[2]
    for key in ("anyOf", "oneOf"):
        if key in field:
            return " or ".join(dict.fromkeys(_type(one) for one in field[key]))
    if "enum" in field:
        return ", ".join(f"`{one}`" for one in field["enum"])
    if "const" in field:
        return f"`{field['const']}`"
    if field.get("type") == "array":
        return f"list of {_type(field['items'])}" if isinstance(field.get("items"), dict) else "list"
    return str(field.get("type", ""))


def _drawn_layers() -> str:
    """Return the layers as an SVG drawing."""
    rows = layers()
    wide, tall, gap = 760, 34, 10
    shapes = []
    for number, names in enumerate(rows):
        width = (wide - gap * (len(names) - 1)) / len(names)
        for place, name in enumerate(names):
            left, top = place * (width + gap), number * (tall + gap)
            shapes.append(
                f'<rect x="{left:.0f}" y="{top}" width="{width:.0f}" height="{tall}" rx="4" fill="none" '
                f'stroke="currentColor"/><text x="{left + width / 2:.0f}" y="{top + 22}" text-anchor="middle" '
                f'fill="currentColor" font-size="14">{name}</text>'
            )
    height = len(rows) * (tall + gap)
    title = "; ".join(" and ".join(names) for names in rows)
    return (
        f'<svg viewBox="-1 -1 {wide + 2} {height}" role="img" aria-label="Layers, the highest first: {title}" '
        f'xmlns="http://www.w3.org/2000/svg">{"".join(shapes)}</svg>'
    )


def layers() -> list[list[str]]:
    """Return the layers that import-linter holds, the highest first."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        contracts = tomllib.load(file)["tool"]["importlinter"]["contracts"]
    (found,) = [one for one in contracts if one["type"] == "layers"]
    return [[name.strip() for name in line.split(":")] for line in found["layers"]]
