"""The distillation recipe: what it trains on, and the road from training to one table, in its short form."""

from __future__ import annotations

import json
import re
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rotation import takes_turns
from scripts_by_path import load_script

import slmbench

torch = pytest.importorskip("torch")
pytest.importorskip("openvino", reason="needs slmbench[cpu]")
RECIPE = Path(__file__).parents[2] / "examples" / "distillation" / "distil.py"


@pytest.fixture(scope="module")
def recipe() -> Any:
    return load_script("examples/distillation/distil.py")


def test_answers_are_the_most_frequent_topics(recipe: Any) -> None:
    examples = recipe.make_examples(20, words=24, seed=5)
    for ticket, answer in zip(examples.tickets.tolist(), examples.answers.tolist(), strict=True):
        words = [recipe.VOCABULARY[one] for one in ticket]
        counts = {topic: sum(word in known for word in words) for topic, known in recipe.TOPICS.items()}
        *named, end = [recipe.VOCABULARY[one] for one in answer]
        assert named == sorted(counts, key=lambda topic: -counts[topic])[: recipe.TOP]
        assert end == "</s>"


@pytest.mark.slow
def test_a_teacher_that_is_sure_of_the_targets_teaches_nothing_else(recipe: Any) -> None:
    """Distilling from one-hot distributions is training on the targets."""
    examples = recipe.make_examples(32, words=8, seed=1)
    sure = torch.nn.functional.one_hot(examples.answers, recipe.VOCABULARY_SIZE).float()
    trained = [
        recipe.train(recipe.new_model("t5-tiny", seed=3), examples, teacher, 3, recipe.QUICK, seed=3).state_dict()
        for teacher in (None, sure, sure.flip(0))
    ]

    def apart(place: int) -> float:
        return max(float((trained[0][name] - trained[place][name]).norm()) for name in trained[0])

    # Adam blows rounding up where a gradient is nearly zero.
    assert apart(1) < 0.1 * apart(2)


@pytest.mark.slow
@takes_turns(1, 4)
def test_the_short_recipe_puts_student_distilled_and_teacher_into_one_table(tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "-P", str(RECIPE), str(out), "--quick", "--repeat", "2"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = slmbench.read_run(out / "run").table().set_index("model")
    assert set(rows.index) == {"teacher", "plain-0", "distilled-0", "plain-1", "distilled-1"}
    for name in ("ttft_s", "tpot_s", "peak_memory_bytes"):
        assert (rows[name] > 0).all(), name
    assert ((rows["score_low"] <= rows["score"]) & (rows["score"] <= rows["score_high"])).all()
    scores: dict[str, list[float]] = {}
    for line in (out / "run" / "answers.jsonl").read_text().splitlines():
        one = json.loads(line)
        scores.setdefault(one["case"].split("|")[0], []).append(one["score"])
    assert {len(values) for values in scores.values()} == {20}
    means = {name: 100 * statistics.mean(values) for name, values in scores.items()}
    gained = statistics.mean(means[f"distilled-{seed}"] - means[f"plain-{seed}"] for seed in (0, 1))
    said = re.search(r"distillation gains ([+-][\d.]+) points \[.*\] over 2 seeds", done.stdout)
    assert said is not None, done.stdout
    assert float(said[1]) == pytest.approx(gained, abs=0.051)
