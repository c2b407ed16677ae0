"""No folder of this machine is written into results: neither in sentences of ours nor in what engines say."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from slmbench.fleet import messages as sent
from slmbench.fleet import record as fleet
from slmbench.records import answers, limits, quality, refusals, schema, tasks_asked
from slmbench.records.without_folders import without_folders
from slmbench.system.paths import cache_dir

HOME, PREFIX, TEMPORARY = str(Path.home()), sys.prefix, tempfile.gettempdir()


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("nothing of a path, and/or 3 ms/step", "nothing of a path, and/or 3 ms/step"),
        (f"{HOME}/models/mine/config.json: not JSON", ".../config.json: not JSON"),
        (f"{HOME}: cannot be written", "~: cannot be written"),
        (f"no such file: '{TEMPORARY}/a b/c.onnx'", "no such file: '.../a b/c.onnx'"),
        (f'File "{PREFIX}/lib/site-packages/openvino/x.py", line 3', 'File "site-packages/openvino/x.py", line 3'),
        (f"{cache_dir()}/artifacts/0a1b: was removed", ".../0a1b: was removed"),
        ("/usr/lib/libfoo.so.1: undefined symbol", ".../libfoo.so.1: undefined symbol"),
        ("look whether the disk or /dev/shm is full", "look whether the disk or /dev/shm is full"),
        ("node /layers.0/attn/MatMul: shapes differ", "node /layers.0/attn/MatMul: shapes differ"),
        ("see https://example.org/usr/lib/x", "see https://example.org/usr/lib/x"),
        ("results/good/run.json: not a run", "results/good/run.json: not a run"),
        (f"file://{HOME}/a.png", "file://.../a.png"),
        ("say what: /", "say what: /"),
    ],
)  # fmt: skip
def test_a_path_of_this_machine_becomes_a_name(text: str, written: str) -> None:
    assert without_folders(text) == written
    assert without_folders(written) == written


def models(*modules: Any) -> Iterator[type[BaseModel]]:
    """Yield the records that modules define."""
    for module in modules:
        for one in vars(module).values():
            if isinstance(one, type) and issubclass(one, BaseModel) and one.__module__ == module.__name__:
                yield one


#: Fields that hold what people or engines said.
SAID = {"reason", "message", "log_tail", "warnings", "refused", "left_out", "outcome", "why", "error"}


def test_every_sentence_of_a_record_is_written_without_folders() -> None:
    seen = 0
    for model in models(schema, refusals, quality, answers, limits, tasks_asked, sent, fleet):
        for name in SAID & set(model.model_fields):
            if model.model_fields[name].annotation is schema.FailureReason:
                continue
            seen += 1
            assert "PlainSerializer" in repr(model.model_fields[name]), f"{model.__name__}.{name}: a plain str"
    assert seen > 12


def test_what_is_written_has_no_folder_and_what_is_shown_has_it() -> None:
    said = f"{HOME}/models/mine: no weights"
    failed = schema.FailureRecord(case="a", reason=schema.FailureReason.ERROR, message=said, log_tail=f"in {said}")
    assert failed.message == said
    assert HOME not in failed.model_dump_json()
    outcome = schema.Outcome(loads=1, warnings=(said,))
    assert ".../mine: no weights" in outcome.model_dump_json()
    part = fleet.Part(keys=("a",), outcome=said)
    assert HOME not in part.model_dump_json()
    assert part.model_copy(update={"outcome": None}).model_dump(mode="json")["outcome"] is None
