"""The checkpoint's tokenizer in a GGUF file, so that llama.cpp's own tools read the same texts.

slmbench itself gives token ids to llama.cpp and needs none of it. Byte-level BPE alone is written, where llama.cpp
has the rule by which the tokenizer cuts texts into words; it is recognised as llama.cpp's converter does it, by the
ids that one text gives.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from slmbench.models.checkpoint import Checkpoint

#: llama.cpp's converter (conversion/base.py, MIT) tells the rules for cutting texts by the ids of this one.
_PROBE = (
    "\n \n\n \n\n\n \t \t\t \t\n  \n   \n    \n     \n\U0001f680 (normal) \U0001f636\u200d\U0001f32b\ufe0f (m"
    "ultiple emojis concatenated) \u2705 \U0001f999\U0001f999 3 33 333 3333 33333 333333 3333333 33333333 3.3"
    " 3..3 3...3 \u1780\u17b6\u1793\u17cb\u178f\u17c2\u1796\u17b7\u179f\u17c1\u179f\u17a2\u17b6\u1785"
    "\U0001f601 ?\u6211\u60f3\u5728apple\u5de5\u4f5c1314151\u5929\uff5e ------======= \u043d\u0435\u0449"
    "\u043e \u043d\u0430 \u0411\u044a\u043b\u0433\u0430\u0440\u0441\u043a\u0438 ''''''```````\"\"\"\"......"
    "!!!!!!?????? I've been 'told he's there, 'RE you sure? 'M not sure I'll make it, 'D you like some"
    " tea? We'Ve a'lL"
)
#: SHA-256 of the probe's ids as Python prints them, and llama.cpp's name of the rule.
_RULES = {
    "0ef9807a4087ebef797fc749390439009c3b9eda9ad1a097abbe738f486c01e5": "llama-bpe",
    "32d85c31273f8019248f2559fed492d929ea28b17e51d81d3bb36fff23ca72b3": "stablelm2",
    "3ce83efda5659b07b1ad37ca97ca5797ea4285d9b9ab0dc679e4a720c9da7454": "gpt-2",
    "63b97e4253352e6f357cc59ea5b583e3a680eaeaf2632188c2b952de2588485e": "tekken",
    "855059429035d75a914d1eda9f10a876752e281a054a7a3d421ef0533e5b6249": "smollm",
    "a8594e3edff7c29c003940395316294b2c623e09894deebbc65f33f1515df79e": "dbrx",
    "b6dc8df998e1cfbdc4eac8243701a65afe638679230920b50d6f17d81c098166": "olmo",
    "ccc2ef013c104be7bae2965776d611e1d7a8a2a9c547dd93a682c9a9fc80352e": "gpt-4o",
    "d4540891389ea895b53b399da6ac824becc30f2fba0e9ddbb98f92e55ca0e97c": "qwen2",
    "e636dc30a262dcc0d8c323492e32ae2b70728f4df7dfe9737d9f920a282b8aea": "qwen2",
    "fcace8b9cac38ce847670c970cd5892031a753a1ef381abd1d9af00f713da085": "phi-2",
}


def add_tokenizer(writer: Any, checkpoint: Checkpoint) -> None:
    """Write the checkpoint's tokenizer, or that the file has none: where there is none, or none that is known here."""
    tokenizer, rule = _byte_level_bpe(checkpoint)
    if tokenizer is None:
        writer.add_tokenizer_model("none")
        return
    import gguf

    tokens, kinds = _tokens(tokenizer, checkpoint.geometry.vocab_size)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(rule)
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    special = gguf.SpecialVocab(checkpoint.path, load_merges=True, n_vocab=len(tokens))
    special.add_to_gguf(writer, quiet=True)


def _byte_level_bpe(checkpoint: Checkpoint) -> tuple[Any, str]:
    """Return the tokenizer and llama.cpp's name of its rule for cutting texts; None where there is none."""
    path = None if checkpoint.path is None else checkpoint.path / "tokenizer.json"
    if path is None or not path.is_file() or not _is_bpe(path):
        return None, ""
    from transformers import AutoTokenizer

    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(checkpoint.path, local_files_only=True)
        ids = tokenizer.encode(_PROBE)
    except Exception:  # whatever is wrong with it: token ids are measured, and need none
        return None, ""
    rule = _RULES.get(hashlib.sha256(str(ids).encode()).hexdigest())
    fits = max(tokenizer.get_vocab().values()) < checkpoint.geometry.vocab_size
    return (tokenizer, rule) if rule is not None and fits else (None, "")


def _is_bpe(path: Path) -> bool:
    try:
        model = json.loads(path.read_bytes()).get("model")
    except (ValueError, AttributeError):
        return False
    return isinstance(model, dict) and model.get("type") == "BPE"


def _tokens(tokenizer: Any, vocabulary: int) -> tuple[list[str], list[int]]:
    """Return every token's text and kind; rows of the embedding that no token has are filled up."""
    import gguf

    named = {number: text for text, number in tokenizer.get_vocab().items()}
    added = tokenizer.added_tokens_decoder
    tokens, kinds = [], []
    for number in range(vocabulary):
        kind = gguf.TokenType.NORMAL
        if number not in named:
            kind = gguf.TokenType.UNUSED
        elif number in added:
            kind = gguf.TokenType.CONTROL if added[number].special else gguf.TokenType.USER_DEFINED
        tokens.append(named.get(number, f"[PAD{number}]"))
        kinds.append(int(kind))
    return tokens, kinds
