"""From `slmbench run --tasks` to the answers, the table, the report and the exit code; transformers is the oracle."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rotation import in_turn

import slmbench
from slmbench.cli import run_main
from slmbench.errors import BadInputError, ExitCode

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.slow

ENGINES = tuple(in_turn(("onnxruntime", "openvino"), 2))
MOST = 24
HOSTILE = "<script>alert(1)</script> 4 | `x`"
SHORT = ["--input-tokens", "16", "--output-tokens", "4", "--repeat", "1"]


def prompts() -> list[str]:
    return [f"What is {number} + {number}?" for number in range(11)] + [HOSTILE]


def save_tokenizer(folder: Path, **config: object) -> Any:
    """Save a tokenizer of bytes; return it as transformers reads it."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import AutoTokenizer

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {"<pad>": 0, "</s>": 1, "<s>": 2, **{letter: index + 3 for index, letter in enumerate(alphabet)}}
    made = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens(["<pad>", "</s>", "<s>"])
    made.save(str(folder / "tokenizer.json"))
    whole = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>", **config}
    (folder / "tokenizer_config.json").write_text(json.dumps(whole))
    return AutoTokenizer.from_pretrained(folder)


TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{{ m['content'] }}\n{% endfor %}{% if add_generation_prompt %}>{% endif %}"
)


def save_checkpoint(folder: Path, seed: int) -> list[list[int]]:
    """Save a tiny Llama that ends some of its answers; return what transformers generates for each prompt."""
    from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=300, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=512, initializer_range=0.3, bos_token_id=2, pad_token_id=0,
        eos_token_id=1,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    model.save_pretrained(folder)
    theirs = save_tokenizer(folder, chat_template=TEMPLATE)
    told = [theirs.apply_chat_template([{"role": "user", "content": one}], add_generation_prompt=True, tokenize=False)
            for one in prompts()]  # fmt: skip
    ids = [torch.tensor([theirs(one, add_special_tokens=False)["input_ids"]]) for one in told]

    def answers(ends: list[int]) -> list[list[int]]:
        settings = GenerationConfig(max_new_tokens=MOST, do_sample=False, eos_token_id=ends, pad_token_id=0)
        return [model.generate(one, generation_config=settings)[0, one.shape[1] :].tolist() for one in ids]

    # Ends that only the generation config names: what the first answer has as its sixth token.
    ends = [1, answers([1])[0][5]]
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": ends, "pad_token_id": 0}))
    return [[token for token in one if token not in ends] for one in answers(ends)]


@pytest.fixture(scope="module")
def road(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    place = tmp_path_factory.mktemp("tasks")
    expected = {}
    for seed, name in enumerate(("first", "second")):
        (place / name).mkdir()
        expected[name] = save_checkpoint(place / name, seed)
    lines = [{"prompt": one, "metric": "number", "answer": "#### 4"} for one in prompts()]
    (place / "tasks.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    command = [sys.executable, "-m", "slmbench", "run", "--tasks", "tasks.jsonl", "--max-new-tokens", str(MOST), *SHORT,
               "--model", "first", "--model", "second", "--model", "dec-tiny", "--backend", ",".join(ENGINES),
               "--precision", "fp32", "--out", "run"]  # fmt: skip
    done = subprocess.run(command, cwd=place, capture_output=True, text=True, check=False)
    return {"place": place, "expected": expected, "done": done, "run": place / "run", "command": command}


def records(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "answers.jsonl").read_text().splitlines()]


def test_answers_are_those_of_transformers_on_every_engine(road: dict[str, Any]) -> None:
    assert road["done"].returncode == ExitCode.OK, road["done"].stderr
    found = records(road["run"])
    assert len(found) == 2 * len(ENGINES) * len(prompts())
    from transformers import AutoTokenizer

    for name, expected in road["expected"].items():
        decode = AutoTokenizer.from_pretrained(road["place"] / name).decode
        for engine in ENGINES:
            mine = {one["item"]: one for one in found if one["case"].startswith(f"{name}|{engine}|")}
            for item, tokens in enumerate(expected, 1):
                assert mine[item]["tokens"] == len(tokens), (name, engine, item)
                assert mine[item]["answer"] == decode(tokens, skip_special_tokens=True), (name, engine, item)
                assert mine[item]["ended"] == ("length" if len(tokens) == MOST else "eos")
                assert 0 < mine[item]["ttft_ns"] <= mine[item]["answer_ns"]
    assert {one["ended"] for one in found} == {"eos", "length"}
    record = json.loads((road["run"] / "run.json").read_text())["tasks"]
    assert record["chat_templates"] == {"first": True, "second": True}
    assert (record["items"], record["max_new_tokens"]) == (len(prompts()), MOST)


def test_a_forecast_goes_by_what_earlier_runs_took(road: dict[str, Any]) -> None:
    asked = [*road["command"][:-2], "--dry-run"]
    done = subprocess.run(asked, cwd=road["place"], capture_output=True, text=True, check=False)
    assert done.returncode == ExitCode.OK, done.stderr
    asked_for = f"tasks: 12 items of tasks.jsonl, answered by {2 * len(ENGINES)} cases: "
    assert f"{asked_for}at most about" in " ".join(road["done"].stderr.split())
    assert f"{asked_for}about" in " ".join(done.stdout.split())


def test_screen_and_files_show_scores_and_no_text(road: dict[str, Any]) -> None:
    screen, run = road["done"].stdout, road["run"]
    for shown in (screen, (run / "table.md").read_text()):
        text = " ".join(shown.split())
        assert "Answers to tasks" in text
        assert "score [95 %]" in text
        assert f"On {ENGINES[0]} in fp32 / fp32, 12 items (number): second" in text
        assert "dec-tiny is a catalog model with random weights" in text
        assert "alert" not in text
    rows = slmbench.read_run(run).table().set_index("model")
    assert rows.loc[["first"], "score_metric"].tolist() == ["number"] * len(ENGINES)
    assert (rows.loc[["first"], "task_items"] == len(prompts())).all()
    assert (rows.loc[["first"], "task_ttft_s"] > 0).all()
    assert rows.loc[["dec-tiny"], "score"].isna().all()
    for name in ("samples.jsonl", "run.json", "table.csv"):
        assert "alert" not in (run / name).read_text(), name


def test_the_report_shows_answers_side_by_side_and_escapes_them(road: dict[str, Any]) -> None:
    page = (road["run"] / "report.html").read_text()
    assert "Answers side by side" in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt; 4 | `x`" in page
    assert "<script>alert(1)" not in page


def test_tables_of_other_tools_hold_no_text(road: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    for form in ("--json", "--markdown"):
        assert run_main(["table", str(road["run"]), form]) == 0
        assert "alert" not in capsys.readouterr().out


def test_a_resumed_run_answers_what_is_missing_also_when_the_file_is_gone(road: dict[str, Any]) -> None:
    run = road["run"]
    path = run / "answers.jsonl"
    before = path.read_text().splitlines(keepends=True)
    cut = len(before) - 7
    path.write_text("".join(before[:cut]) + before[cut][:25])
    (road["place"] / "tasks.jsonl").unlink()
    seen = subprocess.run(
        [sys.executable, "-m", "slmbench", "run", "--resume", "run", "--dry-run"],
        cwd=road["place"], capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "tasks: 7 answers left of " in seen.stdout, seen.stdout + seen.stderr
    assert "quality" not in seen.stdout
    done = subprocess.run(
        [sys.executable, "-m", "slmbench", "run", "--resume", "run"],
        cwd=road["place"], capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == ExitCode.OK, done.stderr
    after = records(run)

    def told(one: dict[str, Any]) -> tuple[Any, ...]:
        return one["case"], one["item"], one["answer"], one["score"]

    assert [told(one) for one in after[:cut]] == [told(json.loads(line)) for line in before[:cut]]
    assert sorted(map(told, after)) == sorted(told(json.loads(line)) for line in before)


def test_answers_to_other_tasks_are_not_mixed_in(road: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(road["place"])
    kept = (road["run"] / "tasks.jsonl").read_text()
    try:
        (road["run"] / "tasks.jsonl").write_text(kept.replace("3 + 3", "3 + 4"))
        with pytest.raises(BadInputError, match=r"holds answers to other tasks \(line 4\)"):
            slmbench.run(resume=road["run"])
    finally:
        (road["run"] / "tasks.jsonl").write_text(kept)
