"""Options next to --resume: those of the run may be said again, others are refused in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from slmbench.errors import BadInputError
from slmbench.plan.request import RunRequest
from slmbench.plan.typed_again import continued

RUN = Path("results/half")
BEFORE: dict[str, Any] = {
    "models": ("dec-tiny", "./models/mine"),
    "input_tokens": (64, 128),
    "budget_s": 60.0,
    "interval_target": 0.05,
    "share_loads": False,
    "backend_options": (("kv_cache", "u8"),),
    "image_size": ((64, 32),),
    "recipe": "optimum:org/name,text=0123456789abcdef",
    "arms": (("base", "/old/python"), ("head", "/new/python")),
}


def go_on(**typed: Any) -> RunRequest:
    return continued(RUN, RunRequest(resume=RUN, **typed), RunRequest(**BEFORE))


def test_without_options_a_run_goes_on_with_its_own() -> None:
    assert go_on() == RunRequest(**BEFORE)


@pytest.mark.parametrize("name", BEFORE)
def test_an_option_of_the_run_may_be_said_again(name: str) -> None:
    assert go_on(**{name: BEFORE[name]}) == RunRequest(**BEFORE)


def test_files_may_have_moved_and_the_network_be_away() -> None:
    moved = go_on(models=("dec-tiny", "../other/mine"), recipe="optimum:org/name,text=my.txt", offline=True)
    assert (moved.models[1], moved.recipe, moved.offline) == ("../other/mine", "optimum:org/name,text=my.txt", True)
    assert moved.input_tokens == (64, 128)
    again = go_on(arms=(("base", "/a/python"), ("head", "/b/python")), out=RUN, trust_remote_code=True)
    assert again.input_tokens == (64, 128)


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ({"input_tokens": (32,)}, "with --input-tokens 64,128, not with --input-tokens 32; leave it out"),
        ({"output_tokens": (32,)}, "without --output-tokens, not with --output-tokens 32; leave it out"),
        ({"models": ("mu-tiny",)}, "with --model dec-tiny,./models/mine, not with --model mu-tiny; leave it out"),
        ({"budget_s": 90.0}, "with --budget 60.0, not with --budget 90.0; leave it out"),
        ({"interval_target": 0.1}, "with --interval-target 5, not with --interval-target 10; leave it out"),
        ({"image_size": ((8, 8),)}, "with --image-size 64x32, not with --image-size 8x8; leave it out"),
        ({"backend_options": (("a", "b"),)}, "with --option kv_cache=u8, not with --option a=b; leave it out"),
        ({"pairs": (("mu-tiny", "dec-tiny"),)}, "without --pair, not with --pair mu-tiny,dec-tiny; leave it out"),
        ({"quality": True}, "without --quality, not with --quality; leave it out"),
        ({"arms": (("a", "p"), ("b", "p"))}, "with --arm base=/old/python,head=/new/python, not with --arm a=p,b=p"),
    ],
)
def test_another_value_is_refused_with_both(typed: dict[str, Any], said: str) -> None:
    with pytest.raises(BadInputError) as error:
        go_on(**typed)
    assert f"results/half: was started {said}" in str(error.value)


def test_one_load_for_each_length_is_an_option_too() -> None:
    with pytest.raises(BadInputError, match="was started without --no-share, not with --no-share"):
        continued(RUN, RunRequest(resume=RUN, share_loads=False), RunRequest(models=("dec-tiny",)))


def test_a_run_goes_on_in_its_own_folder() -> None:
    with pytest.raises(
        BadInputError, match="--resume continues the run in this folder, not in results/other; leave out --out"
    ):
        go_on(out=Path("results/other"))
