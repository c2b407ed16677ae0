"""One table of extras: it says what pyproject.toml says, and no other text names an extra."""

import re
import tomllib
from pathlib import Path
from types import SimpleNamespace

import pytest
from packaging.requirements import Requirement

from slmbench.system import extras
from slmbench.system.extras import EXTRAS, install_command, missing, needed

ROOT = Path(__file__).parents[1]
OPTIONAL = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]


def test_every_extra_brings_what_the_table_says() -> None:
    listed = {name: {Requirement(text).name for text in texts} for name, texts in OPTIONAL.items()}
    users = {
        "graphs",
        "export",
        "cpu",
        "llama",
        "history",
        "cuda",
        "qnn",
        "fleet",
        "optimum",
        "tasks",
        "ct2",
        "dequantize",
        "pictures",
    }
    assert {one: extra for extra in users for one in listed[extra] - {"slmbench"}} == EXTRAS


def test_no_message_names_an_extra_by_itself() -> None:
    """Strings with an install command exist in the table's own module alone; docstrings may name extras."""
    told = re.compile(r"""["'].*(pip install ['"]?(slmbench\[|[a-z])|is not installed[:;])""")
    allowed = {ROOT / "slmbench/system/extras.py"}
    for path in [*ROOT.glob("slmbench/**/*.py"), *ROOT.glob("backends/**/*.py")]:
        if path not in allowed:
            found = [line for line in path.read_text().splitlines() if told.search(line) and '"""' not in line]
            assert not found, f"{path}: {found}"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("torch", "torch is not installed: pip install 'slmbench[export]'"),
        ("optimum.intel", "optimum-intel is not installed: pip install 'slmbench[optimum]'"),
        ("llama_cpp", "llama-cpp-python is not installed: pip install 'slmbench[llama]'"),
        ("onnxruntime_genai", "onnxruntime-genai is not installed: pip install 'slmbench[cpu]'"),
        ("bokeh", "bokeh is not installed: pip install bokeh"),
    ],
)
def test_modules_and_distributions_get_the_same_text(name: str, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extras, "_from_folder", lambda: False)
    monkeypatch.setattr(extras, "_too_large", lambda _: "")
    assert missing(name) == text
    error = ModuleNotFoundError(f"No module named '{name}'", name=name)
    assert needed(error, "here").endswith(install_command(name))


@pytest.mark.parametrize(
    ("source", "command"),
    [
        (None, "pip install 'slmbench[cpu]'"),
        (
            '{"url": "file:///a/slmbench-0.2.0-py3-none-any.whl", "archive_info": {}}',
            "pip install 'slmbench[cpu]'",
        ),
        ('{"url": "file:///home/a/slmbench", "dir_info": {}}', "pip install '.[cpu]' in the folder of slmbench"),
        ("not JSON", "pip install 'slmbench[cpu]'"),
    ],
)
def test_what_came_from_a_clone_is_installed_from_it_again(
    source: str | None, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """README installs a clone: an index may not have slmbench at all. The folder's name stays on this machine."""
    monkeypatch.setattr(extras, "distribution", lambda _: SimpleNamespace(read_text=lambda _: source))
    extras._from_folder.cache_clear()
    try:
        assert install_command("openvino") == command
    finally:
        extras._from_folder.cache_clear()


def test_the_cause_is_told_where_a_library_hides_it() -> None:
    """transformers raises "Could not import module 'AutoModel...'" from what was really missing."""
    cause = ImportError("huggingface-hub>=1.3.0,<2.0 is required, but found huggingface-hub==0.30.2")
    hidden = ModuleNotFoundError("Could not import module 'AutoModelForCausalLM'. Are its requirements defined?")
    hidden.__cause__ = cause
    assert needed(hidden, "to export").endswith(f"is needed to export and cannot be imported: {cause}")
    hidden.__cause__ = ModuleNotFoundError("No module named 'torch'", name="torch")
    assert needed(hidden, "to export") == f"torch is needed to export: {install_command('torch')}"


def test_a_package_that_is_there_and_broken_says_so() -> None:
    error = ImportError("libgomp.so.1: cannot open shared object file", name="numpy")
    assert needed(error, "to count") == (
        "numpy is needed to count and cannot be imported: libgomp.so.1: cannot open shared object file"
    )
