"""Counts, sizes and times of records are never negative, and none is larger than anything is."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from synthetic import make_run

from slmbench.cli import run_main
from slmbench.errors import BadInputError
from slmbench.records.quality import all_schemas
from slmbench.records.sample_arrays import read_columns
from slmbench.records.schema import read_run

#: Ids of tokens and what a config says of its network, read from a checkpoint; a seed may be negative.
_OTHERS = ("Checkpoint", "Geometry", "GivenRecord", "properties.seed", "properties.schema_version")


def _integers(node: Any, path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    if isinstance(node, dict):
        if node.get("type") == "integer":
            yield path, node
        for key, value in node.items():
            yield from _integers(value, f"{path}.{key}")
    elif isinstance(node, list):
        for value in node:
            yield from _integers(value, path)


@pytest.mark.parametrize("name", list(all_schemas()))
def test_every_integer_of_a_schema_has_a_least_value(name: str) -> None:
    found = [(path, node) for path, node in _integers(all_schemas()[name], name)]
    assert found
    for path, node in found:
        if not any(other in path for other in _OTHERS):
            least = node.get("minimum", node.get("exclusiveMinimum", node.get("const")))
            assert least is not None, path
            assert least >= 0, path


def _changed(folder: Path) -> Iterator[tuple[str, str]]:
    """Yield a kind of record and a field of it, with that field of the last such record spoilt in the file."""
    file = folder / "samples.jsonl"
    lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    last = {line["type"]: place for place, line in enumerate(lines)}
    for kind, place in last.items():
        plain = {**lines[place], "image_tokens": 0} if kind == "sample" else lines[place]
        for name, value in plain.items():
            if type(value) is not int and not (name == "phases_ns" and value):
                continue
            for wrong in (-1, 2**60):
                spoilt = dict(value, encode=wrong) if isinstance(value, dict) else wrong
                told = [*lines[:place], {**plain, name: spoilt}, *lines[place + 1 :]]
                file.write_text("".join(json.dumps(one) + "\n" for one in told), encoding="utf-8")
                yield f"samples.jsonl:{place + 1}: ", "encode" if isinstance(value, dict) else name


def test_a_count_that_is_none_is_refused_with_file_line_and_key(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make_run().write(tmp_path / "run")
    seen = set()
    for where, name in _changed(folder):
        with pytest.raises(BadInputError) as refused:
            read_columns(folder)
        assert where in str(refused.value)
        assert name in str(refused.value)
        with pytest.raises(BadInputError, match=name):
            read_run(folder)
        seen.add(name)
    assert {"load_ns", "peak_rss_bytes", "image_tokens", "batch", "round"} <= seen
    assert run_main(["table", str(folder)]) == 2
    said = capsys.readouterr().err
    assert "samples.jsonl:" in said
    assert "Traceback" not in said


def test_there_are_no_more_image_tokens_than_input_tokens(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_run().write(tmp_path / "run")
    file = folder / "samples.jsonl"
    lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    place = next(place for place, line in enumerate(lines) if line["type"] == "sample")
    lines[place]["image_tokens"] = lines[place]["input_tokens"] + 1
    file.write_text("".join(json.dumps(one) + "\n" for one in lines), encoding="utf-8")
    assert run_main(["table", str(folder)]) == 2
    assert f"samples.jsonl:{place + 1}: image_tokens: more than input_tokens" in capsys.readouterr().err
