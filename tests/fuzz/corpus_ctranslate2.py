"""Broken folders of CTranslate2, as people bring them."""

from __future__ import annotations

from collections.abc import Iterator

import given_files as good
from corpus import Broken, broken_bytes, text

INSPECT = ("inspect", "{}/m")
EMBEDDING = "decoder/embeddings/weight"


def ctranslate2_folders() -> Iterator[Broken]:
    """Yield models that are cut, lie about what they hold or are not of text, and vocabularies that do not fit."""
    whole = good.ct2_bytes()
    yield Broken("CTranslate2: a good one", INSPECT, _folder(whole), may_pass=True)
    bad = {f"cut at {size}": whole[:size] for size in (0, 3, 4, 8, 15, 16, 40, 90, len(whole) // 2, len(whole) - 1)}
    bad |= {name: raw for name, raw in broken_bytes(whole).items() if name != "not UTF-8"}
    bad |= {f"version {one}": good.ct2_bytes(version=one) for one in (0, 5, 7, 1 << 31)}
    bad |= {f"of {one!r}": good.ct2_bytes(specification=one) for one in ("WhisperSpec", "", "\x1b[31m", "x\u202e")}
    bad |= {f"{one} variables more": good.ct2_bytes(more=one) for one in (1, 1 << 20, (1 << 32) - 10)}
    bad |= {f"{one} heads": good.ct2_bytes(heads=one) for one in (None, 0, -3, 77)}
    for shape in ((0, 64), (1 << 31, 1 << 31), (96,), (96, 64, 1), (1,) * 9):
        bad[f"an embedding of {shape}"] = _with_raw_shape(shape)
    bad["a type that is none"] = good.ct2_bytes({**good.CT2_VARIABLES, EMBEDDING: ((96, 64), 3)}).replace(
        b"\x03", b"\x63"
    )
    bad["most weights of int16"] = good.ct2_bytes({name: (shape, 2) for name, (shape, _) in good.CT2_VARIABLES.items()})
    bad["no weights"] = good.ct2_bytes({})
    bad["an alias of nothing"] = good.ct2_bytes(aliases=(("a", "nothing"),))
    bad["an alias of a name that is there"] = good.ct2_bytes(aliases=((EMBEDDING, EMBEDDING),))
    for name, raw in bad.items():
        yield Broken(f"CTranslate2: {name}", INSPECT, _folder(raw), "model.bin")
    for name, value in {
        "too short": ["a"],
        "a text twice": ["a"] * 96,
        "numbers": list(range(96)),
        "no list": {},
    }.items():
        yield Broken(f"CTranslate2: vocabulary {name}", INSPECT, _folder(whole, value), "vocabulary.json")
    for name, raw in broken_bytes(text(["a"])).items():
        files = {**_folder(whole), "m/vocabulary.json": raw}
        yield Broken(f"CTranslate2: vocabulary {name}", INSPECT, files, "vocabulary.json")
        files = {**_folder(whole), "m/config.json": raw}
        yield Broken(f"CTranslate2: config {name}", INSPECT, files, "config.json")


def _with_raw_shape(shape: tuple[int, ...]) -> bytes:
    """Return a model whose embedding claims that shape and has no bytes of it."""
    empty = good.ct2_bytes({EMBEDDING: ((0,) * len(shape), 0)})
    at = empty.index(EMBEDDING.encode()) + len(EMBEDDING) + 2
    claimed = b"".join(one.to_bytes(4, "little") for one in shape)
    return empty[:at] + claimed + empty[at + len(claimed) :]


def _folder(model: bytes, texts: object = None) -> dict[str, bytes]:
    return {f"m/{name}": raw for name, raw in good.ct2_files(model, texts).items()}
