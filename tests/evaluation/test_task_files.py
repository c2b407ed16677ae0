"""Task files are read strictly; scores follow their definitions; prompts are what transformers makes of them."""

import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

import slmbench
from slmbench.cli import run_main
from slmbench.errors import BadInputError, CannotRunError
from slmbench.evaluation.task_file import TaskItem, TaskSet, read_tasks
from slmbench.evaluation.task_metrics import chosen, last_number, scorers
from slmbench.evaluation.task_prompts import TaskTokenizer
from slmbench.fleet.machine_job import planned
from slmbench.plan.request import RunRequest

BAD = {
    "not JSON": ('{"prompt": "a", "answer": "b"', "tasks.jsonl:2: not a JSON line"),
    "a list": ("[1]", "tasks.jsonl:2: a JSON object"),
    "typing error": ('{"prompt": "a", "anwser": "b"}', "tasks.jsonl:2: anwser: unknown key.*Did you mean.*answer"),
    "no prompt": ('{"answer": "b"}', "tasks.jsonl:2: prompt: a text is expected, the key is missing"),
    "empty prompt": ('{"prompt": " ", "answer": "b"}', "tasks.jsonl:2: prompt: a text is expected"),
    "no answer": ('{"prompt": "a"}', "tasks.jsonl:2: answer: a text is expected, the key is missing"),
    "unknown metric": ('{"prompt": "a", "answer": "b", "metric": "rogue"}', "tasks.jsonl:2: metric: rogue is unknown"),
    "answer not a choice": (
        '{"prompt": "a", "answer": "C", "choices": ["A", "B"]}',
        "tasks.jsonl:2: answer: is not among",
    ),
    "one choice": ('{"prompt": "a", "answer": "A", "choices": ["A"]}', "tasks.jsonl:2: choices: at least two"),
    "no schema": ('{"prompt": "a", "metric": "json_schema"}', "tasks.jsonl:2: schema: a JSON schema"),
    "schema of exact": (
        '{"prompt": "a", "answer": "b", "metric": "exact", "schema": {}}',
        "schema: not used by metric",
    ),
    "half a character": ('{"prompt": "\\ud800", "answer": "b"}', "tasks.jsonl:2: prompt: half of a character"),
    "no number": ('{"prompt": "a", "answer": "none", "metric": "number"}', "tasks.jsonl:2: answer: .*needs a number"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_line_is_named_with_its_key(tmp_path: Path, case: str, capsys: pytest.CaptureFixture[str]) -> None:
    line, message = BAD[case]
    path = tmp_path / "tasks.jsonl"
    path.write_text('{"prompt": "fine", "answer": "yes"}\n' + line + "\n")
    with pytest.raises(BadInputError, match=message):
        scorers(read_tasks(path))
    out = tmp_path / "out"
    assert run_main(["run", "--model", "dec-tiny", "--backend", "torch", "--tasks", str(path), "--out", str(out)]) == 2
    error = capsys.readouterr().err.strip()
    assert "\n" not in error
    assert "tasks.jsonl:2: " in error
    assert not out.exists()


@pytest.mark.parametrize("content", [b"", b"\n \n", b"\xff\xfe"])
def test_a_file_without_tasks_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "tasks.jsonl"
    path.write_bytes(content)
    with pytest.raises(BadInputError, match=r"tasks\.jsonl: (no tasks|not UTF-8)"):
        read_tasks(path)


def test_models_with_random_weights_have_no_scores(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "tasks.jsonl"
    path.write_text('{"prompt": "a", "answer": "b"}\n')
    assert run_main(["run", "--model", "dec-tiny", "--backend", "torch", "--tasks", str(path)]) == 2
    assert "dec-tiny is a catalog model with random weights" in capsys.readouterr().err


def test_longest_answer_needs_tasks(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_main(["run", "--model", "dec-tiny", "--max-new-tokens", "9", "--dry-run"]) == 2
    assert "--max-new-tokens is for answers to --tasks" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("#### 1,234.50", "1234.5"),
        ("3 apples and -4", "-4"),
        ("so 5.", "5"),
        ("= .5", "0.5"),
        ("1,2", "2"),
        ("no", None),
    ],
)
def test_the_last_number_counts(text: str, number: str | None) -> None:
    found = last_number(text)
    assert (None if found is None else float(found)) == (None if number is None else float(number))


@pytest.mark.parametrize(
    ("text", "choice"),
    [
        ("The answer is B.", "B"),
        ("a B", "B"),
        ("Bad", None),
        ("B, not A", "B"),
        ("YES", "yes"),
        ("yes indeed", "yes indeed"),
        ("", None),
    ],
)
def test_the_choice_that_is_named_first_counts(text: str, choice: str | None) -> None:
    assert chosen(text, ["A", "B", "yes", "yes indeed"]) == choice


def score(answer: str, **item: object) -> float:
    one = TaskItem(1, "p", **item)  # type: ignore[arg-type]
    return scorers(TaskSet(Path("t.jsonl"), (one,)))[one.metric](one, answer)


def test_right_and_wrong() -> None:
    assert score(" Paris \n", metric="exact", answers=("Paris", "paris")) == 1
    assert score("Paris.", metric="exact", answers=("Paris",)) == 0
    assert score("That makes 18 dollars", metric="number", answers=("9 * 2 = 18\n#### 18",)) == 1
    assert score("18.5", metric="number", answers=("18",)) == 0
    assert score("none", metric="number", answers=("18",)) == 0


def test_json_that_fits_a_schema() -> None:
    pytest.importorskip("jsonschema")
    schema = {"type": "object", "required": ["a"], "properties": {"a": {"type": "integer"}}}
    for text, right in [('{"a": 1}', 1), ('```json\n{"a": 1}\n```', 1), ('{"a": "1"}', 0), ("{}", 0), ("a", 0)]:
        assert score(text, metric="json_schema", schema=schema) == right
    with pytest.raises(BadInputError, match=r"t\.jsonl:1: schema: not a JSON schema"):
        score("{}", metric="json_schema", schema={"type": 7})


def test_texts_against_references() -> None:
    pytest.importorskip("rouge_score")
    pytest.importorskip("sacrebleu")
    for metric in ("rouge", "chrf", "bleu"):
        assert score(
            "the cat sat on the mat", metric=metric, answers=("no", "the cat sat on the mat")
        ) == pytest.approx(1)
        assert score("", metric=metric, answers=("the cat",)) == 0
    # By hand: 3 of 4 words in order, of 4 in the reference.
    assert score("the cat is here", metric="rouge", answers=("the cat was here",)) == pytest.approx(0.75)


def test_a_missing_library_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "sacrebleu", None)
    monkeypatch.setitem(__import__("sys").modules, "sacrebleu.metrics", None)
    with pytest.raises(CannotRunError, match="sacrebleu is needed to score with metric bleu"):
        score("a", metric="bleu", answers=("a",))


TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{{ '<|' + m['role'] + '|>' }}\n{{ m['content'] | trim }}{{ eos_token }}\n"
    "{% if m['role'] == 'assistant' %}{% generation %}x{% endgeneration %}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}{{ {'ü': 1} | tojson }}"
)


def make_tokenizer(folder: Path, **config: object) -> None:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {"<pad>": 0, "</s>": 1, "<s>": 2, **{letter: index + 3 for index, letter in enumerate(alphabet)}}
    made = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens(["<pad>", "</s>", "<s>"])
    made.save(str(folder / "tokenizer.json"))
    whole = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>", **config}
    (folder / "tokenizer_config.json").write_text(json.dumps(whole))


@pytest.mark.parametrize("place", ["config", "named", "file"])
def test_chat_templates_give_what_transformers_gives(tmp_path: Path, place: str) -> None:
    transformers = pytest.importorskip("transformers")
    named = [{"name": "other", "template": "no"}, {"name": "default", "template": TEMPLATE}]
    given = {"config": {"chat_template": TEMPLATE}, "named": {"chat_template": named}, "file": {}}[place]
    make_tokenizer(tmp_path, **given)
    if place == "file":
        (tmp_path / "chat_template.jinja").write_text(TEMPLATE)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    messages = [{"role": "user", "content": " How much? "}]
    expected = theirs.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    ours = TaskTokenizer(tmp_path)
    assert ours.has_template
    assert list(ours.ids(" How much? ")) == theirs(expected, add_special_tokens=False)["input_ids"]
    assert ours.text([1, *ours.ids("a")[-3:]]) == theirs.decode(ours.ids("a")[-3:], skip_special_tokens=True)


def test_without_a_template_the_prompt_goes_as_it_is(tmp_path: Path) -> None:
    make_tokenizer(tmp_path)
    ours = TaskTokenizer(tmp_path)
    assert not ours.has_template
    assert ours.text(ours.ids("How much?")) == "How much?"


@pytest.mark.parametrize(
    ("template", "message"),
    [("{% if %}", "its chat template is not one"), ("{{ raise_exception('no users') }}", "fails: ValueError: no users"),
     ("{{ messages.__class__.__mro__[1].__subclasses__() }}", "fails: SecurityError")],
)  # fmt: skip
def test_a_template_that_fails_is_named_with_its_folder(tmp_path: Path, template: str, message: str) -> None:
    make_tokenizer(tmp_path, chat_template=template)
    with pytest.raises(BadInputError, match=message) as caught:
        TaskTokenizer(tmp_path).ids("a")
    assert str(tmp_path) in str(caught.value)


def test_suites_and_python_take_tasks_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tasks = tmp_path / "tasks.jsonl"
    tasks.write_text('{"prompt": "a"}\n')
    suite = tmp_path / "mine.yaml"
    suite.write_text(
        f"name: mine\ncheckpoints: [dec-tiny]\nbackends: [torch]\ntasks: {tasks}\nmax_new_tokens: 9\n"
        "workloads: [{input_tokens: 8, output_tokens: 4}]\n"
    )
    assert run_main(["run", "--suite", str(suite), "--dry-run"]) == 2
    assert "tasks.jsonl:1: answer: a text is expected" in capsys.readouterr().err
    with pytest.raises(BadInputError, match=r"tasks\.jsonl:1: answer"):
        slmbench.run(models=["dec-tiny"], backends=["torch"], tasks=tasks, out=tmp_path / "out")
    suite.write_text(suite.read_text().replace("max_new_tokens: 9", "max_new_tokens: 0"))
    assert run_main(["run", "--suite", str(suite), "--dry-run"]) == 2
    assert "mine.yaml:5: max_new_tokens" in capsys.readouterr().err


def test_a_fleet_does_not_get_the_tasks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "tasks.jsonl"
    path.write_text('{"prompt": "a", "answer": "b"}\n')
    assert run_main(["run", "--model", "dec-tiny", "--tasks", str(path), "--fleet", "local"]) == 2
    said = capsys.readouterr().err
    assert "--tasks is for one machine" in said
    assert "without --fleet and copy its run's folder back" in said


@pytest.mark.parametrize("key", ["tasks: tasks.jsonl", "quality: true", "quality_text: [mail.txt]"])
def test_a_fleet_does_not_get_the_texts_of_a_suite(
    key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    text = f"name: mine\ncheckpoints: [dec-tiny]\n{key}\nworkloads: [{{input_tokens: 8, output_tokens: 4}}]\n"
    (tmp_path / "mine.yaml").write_text(text)
    assert run_main(["run", "--suite", "mine.yaml", "--fleet", "local"]) == 2
    said = f"mine.yaml:3: {key.partition(':')[0]}: is for one machine; a fleet sends no texts"
    assert said in capsys.readouterr().err
    assert not (tmp_path / "results").exists()
    # Nor does a machine do it for a client that asks all the same.
    plan = planned(RunRequest(suite="mine.yaml", suite_text=text))
    assert not plan.keys
    assert said in plan.left_out[0]
