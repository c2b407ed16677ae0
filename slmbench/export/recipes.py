"""Recipes: how weights are quantised, where it is not slmbench's own plain way.

``plain``: data-free, the same for every model. ``optimum``: what optimum-intel's own configuration says for the model
(OpenVINO, int8 and int4), calibrated with a text of the user's where ``,text=FILE`` says so. ``genai:KEY=VALUE,...``:
options of onnxruntime-genai's builder (int4). Torch-free.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from slmbench.errors import BadInputError, nearest
from slmbench.models.artifact import ArtifactSpec
from slmbench.models.checkpoint import Checkpoint

PLAIN, OPTIMUM, GENAI = "plain", "optimum", "genai"
#: The configuration that optimum-intel takes for models that it does not know.
DEFAULT = "default"
_OPTIMUM = re.compile(r"optimum(?::(?P<name>[^,]+))?(?:,text=(?P<text>.+))?", re.DOTALL)
_ALGORITHMS = ("default", "rtn", "rtn_last", "k_quant", "k_quant_mixed", "k_quant_last", "k_quant_linear")
#: The builder's options and their values. With another accuracy level than 4 products are not computed in int8: such a
#: graph is measured by bringing the builder's folder.
GENAI_OPTIONS: dict[str, tuple[str, ...]] = {
    "int4_algo_config": _ALGORITHMS,
    "int4_block_size": ("16", "32", "64", "128", "256"),
    "int4_accuracy_level": ("4",),
    "int4_is_symmetric": ("true", "false"),
}


@dataclass(frozen=True)
class OptimumRecipe:
    """The parts of ``optimum[:NAME][,text=TEXT]``."""

    #: The model whose configuration to take; empty for the checkpoint's own name.
    name: str
    #: A file, or the digest of a text that is kept; empty for the text that comes with slmbench.
    text: str

    @staticmethod
    def of(recipe: str) -> OptimumRecipe | None:
        """Return the parts of a recipe, or None where it is no such recipe."""
        found = _OPTIMUM.fullmatch(recipe)
        return OptimumRecipe(found["name"] or "", found["text"] or "") if found else None

    def __str__(self) -> str:
        return OPTIMUM + (f":{self.name}" if self.name else "") + (f",text={self.text}" if self.text else "")


def check_recipe(text: str) -> str:
    """Return the recipe as it was typed, its options in order.

    Raises:
        BadInputError: there is no such recipe, or an option or value of it is unknown.
    """
    kind, _, rest = text.partition(":")
    if text == PLAIN or OptimumRecipe.of(text):
        return text
    if kind == GENAI and rest:
        return f"{GENAI}:" + ",".join(f"{key}={value}" for key, value in sorted(genai_options(text).items()))
    raise BadInputError(
        f"unknown recipe '{text}'. Known: {PLAIN}, {OPTIMUM}, {OPTIMUM}:ORG/NAME, {OPTIMUM}:{DEFAULT}, "
        f"each also with ,text=FILE, and {GENAI}:KEY=VALUE,... with {', '.join(GENAI_OPTIONS)}"
    )


def genai_options(recipe: str) -> dict[str, str]:
    """Return the builder's options that a recipe names.

    Raises:
        BadInputError: one is unknown, or has another value than it may have.
    """
    found = {}
    for part in recipe.partition(":")[2].split(","):
        key, _, value = part.strip().partition("=")
        if key not in GENAI_OPTIONS:
            known = list(GENAI_OPTIONS)
            raise BadInputError(
                f"unknown option '{key}' of the builder. Known: {', '.join(known)}.{nearest(key, known)}"
            )
        if value not in GENAI_OPTIONS[key]:
            raise BadInputError(f"{key}={value}: {', '.join(GENAI_OPTIONS[key])} are possible")
        found[key] = value
    return found


def with_recipe(spec: ArtifactSpec, checkpoint: Checkpoint, recipe: str) -> ArtifactSpec:
    """Return the spec with the recipe, where that is for artifacts of this kind; others stay plain.

    Raises:
        BadInputError: a checkpoint of no known name, for which no configuration is named.
    """
    optimum = OptimumRecipe.of(recipe)
    kind = OPTIMUM if optimum else recipe.partition(":")[0]
    if spec.layout == "static" or spec.target or spec.exporter == "given":
        return spec
    if optimum and spec.format == "openvino" and spec.weight_precision in ("int8", "int4"):
        if not optimum.name and checkpoint.source != "hub":
            raise BadInputError(
                f"--recipe optimum: {checkpoint.name} is no Hub id, so name the model whose configuration to take: "
                f"--recipe optimum:ORG/NAME, or optimum:{DEFAULT} for what optimum-intel does with models that it does "
                "not know"
            )
        return spec.model_copy(update={"recipe": recipe})
    if kind == GENAI and spec.format == "onnx" and spec.weight_precision == "int4":
        if spec.exporter != "genai":
            raise BadInputError(
                f"--recipe {recipe} is for onnxruntime-genai's builder, and {checkpoint.name} is exported by "
                f"{spec.exporter} here: add --exporter genai"
            )
        return spec.model_copy(update={"recipe": recipe})
    return spec


def check_used(recipe: str, specs: Iterable[ArtifactSpec]) -> None:
    """Refuse a recipe that nothing of what is asked is made by.

    Raises:
        BadInputError: it is so.
    """
    if recipe == PLAIN or any(spec.recipe for spec in specs):
        return
    kind = OPTIMUM if OptimumRecipe.of(recipe) else GENAI
    kinds = {OPTIMUM: "OpenVINO's graphs in int8 and int4", GENAI: "onnxruntime-genai's builder in int4"}
    raise BadInputError(f"--recipe {recipe}: nothing here is made by it; it is for {kinds[kind]}")
