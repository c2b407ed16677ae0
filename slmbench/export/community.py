"""Which architectures the community's exporters know, read from their own sources: importing them takes seconds."""

from __future__ import annotations

import ast
import functools
import importlib.util
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from packaging.version import Version

from slmbench.models import known_types
from slmbench.models.known_routes import agreed
from slmbench.terms import Family

_TASKS: Mapping[Family, str] = {
    "decoder-only": "text-generation-with-past",
    "encoder-decoder": "text2text-generation-with-past",
}
_PICTURES = "image-text-to-text"
#: Types that optimum-intel exports as a vision graph, embeddings and a text graph, which is what sessions drive.
OPTIMUM_PICTURES = ("llava", "gemma3")
_BOUNDS = ("MIN_TRANSFORMERS_VERSION", "MAX_TRANSFORMERS_VERSION")


@dataclass(frozen=True)
class _Entry:
    """One entry of optimum-intel's registry: the tasks it exports, and the oldest and newest transformers."""

    tasks: frozenset[str]
    least: str | None
    most: str | None


def optimum_refusal(architecture: str, family: Family = "decoder-only", *, pictures: bool = False) -> str | None:
    """Return why optimum-intel's registry does not have an architecture (a transformers model type), or None."""
    if architecture in known_types.HEADED:
        return f"optimum-intel exports '{architecture}' together with its vision part only"
    known = _optimum_registry()
    if known is None or not known_types.is_installed():
        return None if pictures else _by_the_table("openvino optimum", "optimum-intel", architecture)
    entry = known.get(architecture)
    if entry is None or (_PICTURES if pictures else _TASKS[family]) not in entry.tasks:
        return f"optimum-intel {version('optimum-intel')} has no export of the architecture '{architecture}'"
    installed = Version(version("transformers"))
    if entry.most is not None and installed > Version(entry.most):
        return f"optimum-intel exports '{architecture}' with transformers {entry.most} at most"
    if entry.least is not None and Version(installed.base_version) < Version(entry.least):
        return f"optimum-intel exports '{architecture}' with transformers {entry.least} or newer"
    return None


def genai_refusal(architecture: str) -> str | None:
    """Return why onnxruntime-genai's builder does not know an architecture (a transformers model type), or None."""
    known, names = _genai_classes(), known_types.networks("causal")
    if known is None or not names:
        return _by_the_table("onnxruntime genai", "onnxruntime-genai's builder", architecture)
    if names.get(architecture) in known:
        return None
    return f"onnxruntime-genai {version('onnxruntime-genai')} does not build the architecture '{architecture}'"


def _by_the_table(column: str, name: str, architecture: str) -> str | None:
    """Answer where a library is not installed: artifacts that were made elsewhere are found by the same choice."""
    if agreed(architecture, column):
        return None
    return f"{name} was not seen to export the architecture '{architecture}' (slmbench models --architectures)"


@functools.cache
def _optimum_registry() -> Mapping[str, _Entry] | None:
    """Return optimum-intel's registry by model type; None where it is not installed."""
    tree = _source("optimum.exporters", "openvino/model_configs.py")
    if tree is None:
        return None
    classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    # Lists of tasks that have a name of their own.
    lists = {
        target.id: _texts(node.value, {})
        for node in tree.body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    found: dict[str, _Entry] = {}
    for node in classes.values():
        least, most = (_inherited(node, name, classes) for name in _BOUNDS)
        for model_type, tasks in _registered(node, lists):
            # One type may stand there for several libraries (diffusers, timm).
            others = found[model_type].tasks if model_type in found else frozenset()
            found[model_type] = _Entry(tasks | others, least, most)
    return found


def _registered(node: ast.ClassDef, lists: Mapping[str, Sequence[str]]) -> Iterator[tuple[str, frozenset[str]]]:
    """Yield the model types that a class is registered for, each with its tasks."""
    for call in node.decorator_list:
        if isinstance(call, ast.Call) and call.args and "register" in ast.unparse(call.func):
            model_type = _texts(call.args[0], lists)[0]
            yield model_type, frozenset(text for one in call.args[1:] for text in _texts(one, lists))


def _texts(tree: ast.AST, lists: Mapping[str, Sequence[str]]) -> Sequence[str]:
    """Return the texts in an expression, those of the named lists included."""
    found: list[str] = []
    for one in ast.walk(tree):
        if isinstance(one, ast.Constant) and isinstance(one.value, str):
            found.append(one.value)
        elif isinstance(one, ast.Name):
            found += lists.get(one.id, ())
    return found


def _inherited(node: ast.ClassDef, name: str, classes: Mapping[str, ast.ClassDef]) -> str | None:
    """Return the text that a class, or the first of its bases in the same file that has it, gives to a name."""
    for line in node.body:
        if isinstance(line, ast.Assign) and any(isinstance(t, ast.Name) and t.id == name for t in line.targets):
            value = line.value.value if isinstance(line.value, ast.Constant) else None
            return value if isinstance(value, str) else None
    for base in node.bases:
        if isinstance(base, ast.Name) and base.id in classes:
            found = _inherited(classes[base.id], name, classes)
            if found is not None:
                return found
    return None


@functools.cache
def _genai_classes() -> frozenset[str] | None:
    """Return the network classes that the builder compares ``config.architectures[0]`` with; None: not installed."""
    tree = _source("onnxruntime_genai", "models/builder.py")
    if tree is None:
        return None
    return frozenset(
        one.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Compare) and ast.unparse(node.left) == "config.architectures[0]"
        for one in node.comparators
        if isinstance(one, ast.Constant) and isinstance(one.value, str)
    )


def _source(package: str, file: str) -> ast.Module | None:
    """Return the parsed source file of an installed package, without importing the package itself."""
    try:
        spec = importlib.util.find_spec(package)
    except ModuleNotFoundError:
        return None
    for folder in (spec.submodule_search_locations or ()) if spec is not None else ():
        path = Path(folder) / file
        if path.is_file():
            return ast.parse(path.read_text(encoding="utf-8"))
    return None
