"""What differs between two sides of a case that were asked the same: weights, recipe, settings that were read back."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from slmbench.analysis.metrics import SideCase

#: Weights that nobody quantised.
_PLAIN = ("fp32", "fp16", "bf16")
#: Weight bytes and bits that differ by less than this share are alike: headers and padding are counted in some files.
_ALIKE = 1e-3


@dataclass(frozen=True)
class Changed:
    """Something that is another on the new side."""

    what: str
    base: str
    new: str
    #: Whether it may make a model worse: another backend or device alone computes the same.
    suspect: bool = True

    def __str__(self) -> str:
        return f"{self.what} {self.new} instead of {self.base}"


def changes(base: SideCase, new: SideCase) -> tuple[Changed, ...]:
    """Return what differs, most telling first; what a side (an older baseline) does not say is no difference."""
    return tuple(dict.fromkeys([*_asked(base, new), *_weights(base, new), *_read_back(base, new)]))


def _asked(base: SideCase, new: SideCase) -> Iterator[Changed]:
    """Yield what differs of cases that were paired although their keys differ."""
    old, young = base.case, new.case
    texts = {
        "model": (old.checkpoint, young.checkpoint),
        "workload": (old.workload.label(), young.workload.label()),
        "backend": (old.backend, young.backend),
        "device": (old.device, young.device),
        "weights": (old.weight_precision, young.weight_precision),
        "exporter": (old.exporter, young.exporter),
        "format": (old.format, young.format),
        "layout": (old.layout, young.layout),
        "settings": (old.settings, young.settings),
        "recipe": (old.recipe or "plain", young.recipe or "plain"),
        "attention": (old.attention or "the best", young.attention or "the best"),
    }
    # Of quantised weights the exporter is the recipe.
    suspects = {"model", "weights", "settings", "recipe", *(["exporter"] if old.weight_precision not in _PLAIN else [])}
    yield from (Changed(what, one, other, what in suspects) for what, (one, other) in texts.items() if one != other)
    before, after = dict(old.options), dict(young.options)
    for name in dict.fromkeys([*before, *after]):
        if before.get(name) != after.get(name):
            yield Changed(f"option {name}", before.get(name, "the default"), after.get(name, "the default"))


def _weights(base: SideCase, new: SideCase) -> Iterator[Changed]:
    old, young = base.model, new.model
    if old.parameter_count != young.parameter_count:
        yield Changed("parameters", f"{old.parameter_count:,}", f"{young.parameter_count:,}")
    if old.weights and young.weights:
        if not _alike(old.weights.bits, young.weights.bits):
            yield Changed("bits per weight", f"{old.weights.bits:.2f}", f"{young.weights.bits:.2f}")
        if old.weights.label() != young.weights.label():
            yield Changed("weight types", old.weights.label(), young.weights.label())
    before, after = old.decode_weight_bytes, young.decode_weight_bytes
    if before and after and not _alike(before, after):
        yield Changed("weights read for a token", f"{before / 1e6:,.2f} MB", f"{after / 1e6:,.2f} MB")


def _alike(one: float, other: float) -> bool:
    return abs(one - other) <= _ALIKE * max(one, other)


def _read_back(base: SideCase, new: SideCase) -> Iterator[Changed]:
    old, young = base.model.settings, new.model.settings
    for name, before in old.items():
        if name in young and young[name] != before:
            yield Changed(name, before, young[name])
