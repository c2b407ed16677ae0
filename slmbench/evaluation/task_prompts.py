"""Prompts of tasks as a checkpoint reads them: its chat template where it has one, its own tokenizer."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from slmbench.errors import BadInputError, one_line
from slmbench.measure.text_prompts import load_tokenizer, token_ids
from slmbench.system.files import read_regular

_SPECIAL = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


class TaskTokenizer:
    """Texts to token ids and back, for one checkpoint."""

    def __init__(self, folder: Path) -> None:
        """Read ``tokenizer.json``, and the chat template where the folder has one.

        Raises:
            BadInputError: there is no tokenizer, or a file is damaged.
        """
        self._folder = folder
        self._tokenizer: Any = load_tokenizer(folder)
        self._config = _json_object(folder / "tokenizer_config.json")
        template = _template_text(folder, self._config)
        self._render = None if template is None else _renderer(folder, template)

    @property
    def has_template(self) -> bool:
        """Return whether prompts go through a chat template."""
        return self._render is not None

    def ids(self, prompt: str) -> tuple[int, ...]:
        """Return the ids of a prompt: as the user's one message of a chat, or as it is with the special tokens.

        Raises:
            BadInputError: the chat template fails.
        """
        if self._render is None:
            return tuple(token_ids(self._tokenizer, prompt))
        special = {name: _token(self._config.get(name)) for name in _SPECIAL if self._config.get(name)}
        messages = [{"role": "user", "content": prompt}]
        try:
            text = self._render(messages=messages, add_generation_prompt=True, **special)
        except Exception as error:  # a template is a program of its author's: it raises what it likes
            raise BadInputError(
                f"{self._folder}: its chat template fails: {type(error).__name__}: {one_line(str(error))[:200]}"
            ) from error
        # The template writes the special tokens itself.
        return tuple(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def text(self, ids: Sequence[int]) -> str:
        """Return the text of generated ids, special tokens left out."""
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=True))


def _json_object(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        found = json.loads(read_regular(path))
    except OSError as error:
        raise BadInputError(f"{path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise BadInputError(f"{path}: not JSON: {one_line(str(error))[:120]}") from error
    if not isinstance(found, dict):
        raise BadInputError(f"{path}: a JSON object is expected")
    return found


def _template_text(folder: Path, config: dict[str, Any]) -> str | None:
    """Return the chat template: a file of its own, or the tokenizer's config; of several, the one named default."""
    path = folder / "chat_template.jinja"
    if path.is_file():
        try:
            return read_regular(path).decode()
        except (OSError, UnicodeDecodeError) as error:
            raise BadInputError(f"{path}: not UTF-8 text: {one_line(str(error))[:120]}") from error
    found = config.get("chat_template")
    if isinstance(found, list):
        named = {one.get("name"): one.get("template") for one in found if isinstance(one, dict)}
        found = named.get("default")
    return found if isinstance(found, str) and found else None


def _token(value: object) -> str:
    """Return a special token, which a config gives as a text or as an object with its content."""
    return str(value.get("content", "")) if isinstance(value, dict) else str(value)


def _renderer(folder: Path, template: str) -> Callable[..., str]:
    """Return the template as a function, with what transformers gives to templates, in Jinja's sandbox."""
    from jinja2 import TemplateSyntaxError, nodes
    from jinja2.ext import Extension, loopcontrols
    from jinja2.parser import Parser
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class GenerationMark(Extension):
        """``{% generation %}`` marks what an assistant said, for training: its content counts, the mark does not."""

        tags = {"generation"}  # noqa: RUF012 (jinja2's own way)

        def parse(self, parser: Parser) -> list[nodes.Node]:
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    def refuse(message: str) -> None:
        raise ValueError(message)

    def to_json(value: object, indent: int | None = None, **_: object) -> str:
        return json.dumps(value, ensure_ascii=False, indent=indent)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[GenerationMark, loopcontrols]
    )
    environment.filters["tojson"] = to_json
    environment.globals["raise_exception"] = refuse
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    try:
        return environment.from_string(template).render
    except TemplateSyntaxError as error:
        raise BadInputError(f"{folder}: its chat template is not one: {one_line(str(error))[:200]}") from error
