from __future__ import annotations

from pathlib import Path

import pytest

from slmbench.errors import BadInputError
from slmbench.measure.text_prompts import load_tokenizer, read_prompts, token_ids


def test_text_file_has_one_prompt_a_line(tmp_path: Path) -> None:
    path = tmp_path / "p.txt"
    path.write_text("one\n\n  two words \n")
    assert read_prompts(path).texts == ("one", "two words")


def test_json_lines_take_strings_and_objects(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text('"a"\n{"question": "b", "answer": "c"}\n')
    assert read_prompts(path).texts == ("a", "b")


def test_a_line_ends_where_editors_say_and_nowhere_else(tmp_path: Path) -> None:
    """Windows' editors begin a file with a mark; U+2028 and the like stand inside JSON strings of other languages."""
    path = tmp_path / "p.jsonl"
    path.write_bytes('\ufeff"a\u2028b\x85c"\r\n"d"\r\n'.encode())
    assert read_prompts(path).texts == ("a\u2028b\x85c", "d")
    path = tmp_path / "p.txt"
    path.write_bytes("\ufeffone\r\ntwo\x0cthree\n".encode())
    assert read_prompts(path).texts == ("one", "two\x0cthree")


def test_the_digest_follows_the_texts(tmp_path: Path) -> None:
    for name, text in (("a.txt", "x\ny"), ("b.txt", "x\ny\n"), ("c.txt", "xy")):
        (tmp_path / name).write_text(text)
    a, b, c = (read_prompts(tmp_path / f"{n}.txt").digest for n in "abc")
    assert a == b != c


@pytest.mark.parametrize(
    ("name", "content", "part"),
    [
        ("p.txt", b"\n\n", "no prompts"),
        ("p.txt", b"\xff\xfe", "not UTF-8"),
        ("p.jsonl", b'"a"\n{"x": 1}\n', ":2: no prompt"),
        ("p.jsonl", b"{\n", ":1: not a JSON line"),
        ("p.jsonl", b'"a"\n"\\ud800"\n', ":2: half of a character"),
        ("p.txt", "hello".encode("utf-16-le"), "holds NULs, as UTF-16 does"),
        ("p.jsonl", b"[" * 100_000, ":1: not a JSON line"),
    ],
)
def test_bad_files_are_one_line_with_the_place(tmp_path: Path, name: str, content: bytes, part: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(BadInputError) as caught:
        read_prompts(path)
    assert part in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_missing_or_damaged_tokenizer_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="no tokenizer.json"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(BadInputError, match="not a tokenizer"):
        load_tokenizer(tmp_path)


def test_ids_come_from_the_tokenizer(tmp_path: Path) -> None:
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace

    made = Tokenizer(WordLevel({"[UNK]": 0, "a": 1, "b": 2}, unk_token="[UNK]"))
    made.pre_tokenizer = Whitespace()
    # As trainers leave them in many files: the length that the model was trained with.
    made.enable_truncation(2)
    made.enable_padding(length=5)
    made.save(str(tmp_path / "tokenizer.json"))
    assert token_ids(load_tokenizer(tmp_path), "b a c") == [2, 1, 0]
