"""Options typed next to ``--resume``: a run keeps those it was started with, and a different value is an error."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

from slmbench.errors import BadInputError, one_line
from slmbench.plan.request import RunRequest, flag

#: Fields of a request that do not change what is measured, or that no user gives.
_NOT_SAID = frozenset(
    {"resume", "out", "offline", "trust_remote_code", "checkpoints", "only_cases", "routes", "suite_text", "carried"}
)
#: Fields that name files. These may have moved since; whether they are the same ones, the plan's digest knows.
_FILES = frozenset({"models", "suite", "prompts", "image", "quality_text", "tasks", "reference", "mmproj", "recipe"})
#: What people type between the parts of one value.
_BETWEEN = {"image_size": "x", "backend_options": "=", "arms": "="}

#: An option, its value as it is typed now, and the one that the run was started with.
Said = tuple[str, object, object]


def continued(folder: Path, typed: RunRequest, before: RunRequest) -> RunRequest:
    """Return the request to continue a run with: the run's own, with its files where they are now.

    Raises:
        BadInputError: as :func:`check_same_options`.
    """
    check_same_options(folder, typed, before, may_move=_FILES)
    moved = {name: getattr(typed, name) for name in _FILES & _typed_fields(typed)}
    return before.model_copy(update={**moved, "offline": typed.offline or before.offline})


def check_same_options(
    folder: Path,
    typed: RunRequest,
    before: RunRequest,
    more: Sequence[Said] = (),
    *,
    may_move: Collection[str] = (),
) -> None:
    """Refuse to continue a run with other options than it was started with. Options that are left out stay.

    ``more`` are options that are no part of a request. Of the fields ``may_move`` names, only the file's name counts.

    Raises:
        BadInputError: an option differs.
    """
    if typed.out is not None and typed.out.resolve() != folder.resolve():
        raise BadInputError(f"{folder}: --resume continues the run in this folder, not in {typed.out}; leave out --out")
    asked = [
        (flag(name), _as_typed(name, getattr(typed, name)), _as_typed(name, getattr(before, name)))
        for name in RunRequest.model_fields
        if name in _typed_fields(typed) and not _alike(name, typed, before, may_move)
    ]
    for option, now, then in [*more, *asked]:
        if now != then:
            raise BadInputError(
                f"{folder}: was started {_shown(option, then)}, not {_shown(option, now)}; leave it out, or start a "
                "new run without --resume"
            )


def _alike(name: str, typed: RunRequest, before: RunRequest, may_move: Collection[str]) -> bool:
    """Return whether a field means the same in both, however it is typed."""
    if name == "arms":
        # Which interpreter runs an arm is what is typed now; the names are the plan's.
        return [arm for arm, _ in typed.arms] == [arm for arm, _ in before.arms]
    now, then = getattr(typed, name), getattr(before, name)
    return bool(now == then) or (name in may_move and _names(now) == _names(then))


def _typed_fields(typed: RunRequest) -> frozenset[str]:
    """Return the fields that somebody typed: those that are not as they are without any option."""
    plain = RunRequest()
    return frozenset(
        name
        for name in RunRequest.model_fields
        if name not in _NOT_SAID and getattr(typed, name) != getattr(plain, name)
    )


def _as_typed(name: str, value: object) -> object:
    """Return a field's value as people type it: a text, several, or a flag that is there or not."""
    if name == "share_loads":
        return not value
    if name == "interval_target" and isinstance(value, float):
        return f"{100 * value:g}"
    if isinstance(value, tuple):
        return [_BETWEEN.get(name, ",").join(map(str, one)) if isinstance(one, tuple) else str(one) for one in value]
    return value if value is None or isinstance(value, bool) else str(value)


def _names(value: object) -> list[str]:
    """Return the names of files without their folders; of a recipe without its text, whose digest the run keeps."""
    many = value if isinstance(value, tuple) else () if value is None else (value,)
    return [Path(str(one).partition(",text=")[0]).name for one in many]


def _shown(option: str, value: object) -> str:
    if not value:
        return f"without {option}"
    values = value if isinstance(value, list | tuple) else () if value is True else (value,)
    return one_line(f"with {option} {','.join(map(str, values))}".rstrip())
