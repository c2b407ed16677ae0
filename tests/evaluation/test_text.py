"""The text that quality is measured on: what is taken, how it is cut, and what is refused in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import slmbench
from slmbench.errors import BadInputError
from slmbench.evaluation.text import (
    LEAST_TOKENS,
    MOST_WINDOWS,
    WINDOW_TOKENS,
    Document,
    QualityText,
    read_texts,
    shipped_text,
    windows_of,
)
from slmbench.models.checkpoint import Checkpoint, resolve


def words_tokenizer(*, wrap: bool = False) -> Any:
    """Return a tokenizer that gives word ``17`` the token 17; ``wrap`` puts 1 before and 2 after a text."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    vocabulary = {str(number): number for number in range(300)} | {"a": 300, "?": 301}
    tokenizer = Tokenizer(models.WordLevel(vocab=vocabulary, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    if wrap:
        tokenizer.post_processor = processors.TemplateProcessing(single="1 $A 2", special_tokens=[("1", 1), ("2", 2)])
    return tokenizer


def text_of(*counts: int) -> QualityText:
    """Return documents of so many tokens; document 3 is ``3 3 3 ...``."""
    documents = [Document(f"d{number}", " ".join([str(number)] * count)) for number, count in enumerate(counts)]
    return QualityText(tuple(documents), "made up")


@pytest.fixture
def decoder() -> Checkpoint:
    return resolve("llama-tiny")


def test_the_text_that_ships_is_enough_for_resampling_windows() -> None:
    text = shipped_text()
    assert len(text.documents) >= 8
    assert sum(len(one.text.split()) for one in text.documents) * 1.2 > MOST_WINDOWS * WINDOW_TOKENS
    assert all("public domain" in json.loads(line)["source"] for line in _shipped_lines())


def _shipped_lines() -> list[str]:
    import slmbench.evaluation

    return (Path(slmbench.evaluation.__file__).parent / "public-domain.jsonl").read_text("utf-8").splitlines()


def test_no_window_holds_tokens_of_two_documents(decoder: Checkpoint) -> None:
    windows = windows_of(text_of(300, LEAST_TOKENS - 1, LEAST_TOKENS, WINDOW_TOKENS), words_tokenizer(), decoder)
    assert [(one.document, len(one.given) + len(one.target or ())) for one in windows] == [
        (0, 128), (0, 128), (0, 44), (2, 32), (3, 128),
    ]  # fmt: skip
    for one in windows:
        assert set(one.given + (one.target or ())) == {one.document}


def test_of_a_long_text_windows_are_spread_evenly(decoder: Checkpoint) -> None:
    windows = windows_of(text_of(*[WINDOW_TOKENS] * (3 * MOST_WINDOWS)), words_tokenizer(), decoder)
    assert [one.document for one in windows] == list(range(0, 3 * MOST_WINDOWS, 3))


def test_what_the_tokenizer_puts_around_a_text_is_around_each_window(decoder: Checkpoint) -> None:
    (window,) = windows_of(text_of(40), words_tokenizer(wrap=True), decoder)
    assert window.given == (1,)
    assert window.target == (0,) * 40
    (window,) = windows_of(text_of(40), words_tokenizer(wrap=True), resolve("t5-tiny"))
    assert window.given == (1, *(0,) * 40, 2)
    assert window.target is None


def test_given_targets_are_judged(tmp_path: Path, decoder: Checkpoint) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text('{"prompt": "5 6", "target": "7 8 9"}\n"' + "4 " * 40 + '"\n')
    first, second = windows_of(read_texts([path]), words_tokenizer(), decoder)
    assert (first.given, first.target, first.continues) == ((5, 6), (7, 8, 9), False)
    assert second.continues


def test_a_target_that_is_null_is_none(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"prompt": "x", "target": null}\n')
    assert read_texts([tmp_path / "a.jsonl"]).documents[0].target is None


def test_the_digest_names_the_text_and_not_the_file(tmp_path: Path) -> None:
    for name, content in (("a", "one"), ("b", "one"), ("c", "two")):
        (tmp_path / name).write_text(content)
    first, same, other = (read_texts([tmp_path / name]).digest for name in "abc")
    assert first == same != other


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.txt", b"\xff\xfe", r"a\.txt: not UTF-8 text"),
        ("a.txt", b" \n", r"a\.txt: no text in it"),
        ("a.jsonl", b'{"text": "x"}\n{"target": "y"}\n', r"a\.jsonl:2: text: a text is expected"),
        ("a.jsonl", b'{"prompt": "x", "target": 3}\n', r"a\.jsonl:1: target: a text is expected"),
        ("a.jsonl", b'{"prompt": "x", "target": 0}\n', r"a\.jsonl:1: target: a text is expected"),
        ("a.jsonl", b'{"prompt": "x", "target": ""}\n', r"a\.jsonl:1: target: a text is expected"),
        ("a.jsonl", b'{"prompt": "x", "target": []}\n', r"a\.jsonl:1: target: a text is expected"),
        ("a.jsonl", b'{"prompt": 3}\n', r"a\.jsonl:1: prompt: a text is expected"),
        ("a.jsonl", b"{\n", r"a\.jsonl:1: not a JSON line"),
    ],
)
def test_a_bad_file_is_named_with_its_line(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(BadInputError, match=said):
        read_texts([tmp_path / name])


def test_a_text_shorter_than_a_window_is_refused(decoder: Checkpoint) -> None:
    with pytest.raises(BadInputError, match="20 tokens of llama-tiny in 1 document; a window takes at least 32"):
        windows_of(text_of(20), words_tokenizer(), decoder)


def test_a_tokenizer_of_another_model_is_refused(decoder: Checkpoint) -> None:
    small = decoder.model_copy(update={"geometry": decoder.geometry.model_copy(update={"vocab_size": 2})})
    with pytest.raises(BadInputError, match="its tokenizer gives token 2, but the model knows 2 tokens"):
        windows_of(text_of(40, 40, 40), words_tokenizer(), small)


@pytest.mark.parametrize("text", [3, None, [3]])
def test_in_python_what_is_no_path_is_bad_input(text: Any) -> None:
    with pytest.raises(BadInputError, match=r"slmbench\.quality: quality_text\.0: "):
        slmbench.quality("my-model", text=text)
