"""Results as people and other tools read them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from slmbench.report.table import run_table
    from slmbench.report.write import print_run, write_reports

__all__ = ["print_run", "run_table", "write_reports"]

_HOMES = {
    "print_run": "slmbench.report.write",
    "run_table": "slmbench.report.table",
    "write_reports": "slmbench.report.write",
}


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'slmbench.report' has no attribute '{name}'")
