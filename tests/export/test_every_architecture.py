"""Each architecture on each route, as docs/architectures.md says: its table is what these tests find."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from rotation import in_turn, turn
from scripts_by_path import load_script

pytest.importorskip("torch", reason="exporting needs slmbench[export]")
ROOT = Path(__file__).parents[2]
if not (ROOT / "tests" / "architectures.py").exists():
    pytest.skip("needs the small checkpoints of tests/architectures.py", allow_module_level=True)


def _table() -> Any:
    return load_script("docs/architectures_table.py")


table = _table()
KEPT = table.read()
#: Columns that are asked for in the quick test: the routes that the table is about.
QUICK = ("torch", "openvino generic", "onnxruntime generic", "llama_cpp")


def test_every_architecture_has_a_row_and_the_page_shows_it() -> None:
    assert list(KEPT) == table.names()
    assert table.PAGE.read_text(encoding="utf-8") == table.page(list(KEPT.values()))


#: Those in turn on every route; of the third that is in turn here, the others are asked for the quick routes.
EVERY_ROUTE = in_turn(table.names(), 6)


@pytest.mark.parametrize("name", [n for n in in_turn(table.names(), 3) if turn() is None or n not in EVERY_ROUTE])
def test_architectures_are_exported_on_quick_routes_as_the_table_says(name: str, tmp_path: Path) -> None:
    """Without the community's exporters, which take their time and change at their own pace."""
    assert table.row(name, tmp_path, QUICK).cells == {title: KEPT[name].cells[title] for title in QUICK}


@pytest.mark.slow
@pytest.mark.parametrize("name", EVERY_ROUTE)
def test_every_architecture_is_exported_as_the_table_says(name: str, tmp_path: Path) -> None:
    assert table.row(name, tmp_path) == KEPT[name]
