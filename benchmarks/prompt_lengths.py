"""Counts how long the prompts and answers of tasks are: where the lengths of four suites come from.

    python benchmarks/prompt_lengths.py --tokenizer T5/tokenizer.json \\
        --conversations AzureLLMInferenceTrace_conv.csv --code AzureLLMInferenceTrace_code.csv \\
        --sources generaltest2022.en-de.src.en --references generaltest2022.en-de.ref.A.de \\
        --dialogues dialogsum.test.jsonl --documents conll2003/test.txt

The files are public: github.com/Azure/AzurePublicDataset (data/), wmt-conference/wmt22-news-systems (txt/),
cylnlp/dialogsum (DialogSum_Data/) and any copy of CoNLL-2003 in columns. What is left out is not counted.
"""

from __future__ import annotations

import argparse
import csv
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

Lengths = tuple[Sequence[int], Sequence[int]]


def served(path: Path) -> Lengths:
    """Return the tokens that requests of a trace read and wrote."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return [int(row["ContextTokens"]) for row in rows], [int(row["GeneratedTokens"]) for row in rows]


def counted(tokenizer: Tokenizer, pairs: Sequence[tuple[str, str]]) -> Lengths:
    """Return the tokens of what goes in and what comes out."""
    given, answered = zip(*pairs, strict=True)
    first, second = ([len(one.ids) for one in tokenizer.encode_batch(list(texts))] for texts in (given, answered))
    return first, second


def translations(sources: Path, references: Path) -> list[tuple[str, str]]:
    """Return lines with their translations."""
    lines = (path.read_text(encoding="utf-8").splitlines() for path in (sources, references))
    return list(zip(*lines, strict=True))


def summaries(path: Path) -> list[tuple[str, str]]:
    """Return dialogues with their first summary."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [(row["dialogue"], row["summary1"]) for row in rows]


def names(path: Path) -> list[tuple[str, str]]:
    """Return documents with the names in them, one a line and each once."""
    return [
        (" ".join(word for word, _ in words), "\n".join(dict.fromkeys(_names(words)))) for words in _documents(path)
    ]


def _documents(path: Path) -> Iterator[list[tuple[str, str]]]:
    """Yield each document as words with their tags."""
    words: list[tuple[str, str]] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("-DOCSTART-"):
            if words:
                yield words
            words = []
        elif parts := line.split():
            words.append((parts[0], parts[-1]))
    yield words


def _names(words: Sequence[tuple[str, str]]) -> Iterator[str]:
    found: list[str] = []
    kind = ""
    for word, tag in [*words, ("", "O")]:
        if found and (tag == "O" or tag.startswith("B-") or tag[2:] != kind):
            yield f"{kind}: {' '.join(found)}"
            found = []
        if tag != "O":
            kind = tag[2:]
            found.append(word)


def told(task: str, lengths: Lengths) -> str:
    """Return the quartiles of both lengths, and how they go together."""
    given, answered = (np.percentile(side, [25, 50, 75]).round().astype(int) for side in lengths)
    together = float(np.corrcoef(*lengths)[0, 1])
    return f"{task:<14} {len(lengths[0]):>6} in {given} out {answered} correlation {together:.2f}"


def main() -> None:
    """Print one line for each task whose files were given."""
    parser = argparse.ArgumentParser(description="Count how long prompts and answers of tasks are.")
    for name in ("tokenizer", "conversations", "code", "sources", "references", "dialogues", "documents"):
        parser.add_argument(f"--{name}", type=Path)
    asked = parser.parse_args()
    if asked.conversations:
        print(told("conversations", served(asked.conversations)))
    if asked.code:
        print(told("code", served(asked.code)))
    if not asked.tokenizer:
        return
    tokenizer = Tokenizer.from_file(str(asked.tokenizer))
    # A file that comes with a model may cut or fill texts to what that model takes.
    tokenizer.no_truncation()
    tokenizer.no_padding()
    if asked.sources and asked.references:
        print(told("translation", counted(tokenizer, translations(asked.sources, asked.references))))
    if asked.dialogues:
        print(told("summarisation", counted(tokenizer, summaries(asked.dialogues))))
    if asked.documents:
        print(told("extraction", counted(tokenizer, names(asked.documents))))


if __name__ == "__main__":
    main()
