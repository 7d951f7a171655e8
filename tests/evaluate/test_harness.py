"""lm-evaluation-harness on local tasks: of an exported run and of the run itself, against the lab's own numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from gpt_lab.cli.trained import evaluate as command
from gpt_lab.data.tokenizers.simple import Byte
from gpt_lab.errors import ConfigError, DataError
from gpt_lab.evaluate.subject import Subject, of_run
from gpt_lab.evaluate.task import Asked
from gpt_lab.export import exported_model, hugging_face
from gpt_lab.store.atomic_files import read_json
from tests.infer.conftest import MakeRun

QUESTIONS = [
    {"query": f"The {name} of {i} is", "choices": ["red", "blue or so", "a green thing"], "gold": i % 3}
    for i, name in enumerate(("colour", "light", "paint") * 3)
]


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "datasets"))
    items = tmp_path / "questions.jsonl"
    items.write_text("\n".join(map(json.dumps, QUESTIONS)))
    shared: dict[str, Any] = {
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(items)}, "cache_dir": str(tmp_path / "datasets")},
        "test_split": "test",
        "doc_to_text": "{{query}}",
    }
    choice = {
        "task": "local_choice",
        "output_type": "multiple_choice",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "gold",
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
    }
    until = {
        "task": "local_text",
        "output_type": "generate_until",
        "doc_to_target": "{{choices[gold]}}",
        "generation_kwargs": {"until": ["e"], "max_gen_toks": 6},
        "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
    }
    for task in (choice, until):
        (tmp_path / f"{task['task']}.yaml").write_text(yaml.safe_dump(shared | task))
    return tmp_path


@pytest.mark.slow
def test_harness_and_lab_agree(make_run: MakeRun, files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run("one", tokenizer=Byte(), **{"scale.context": 48})
    runs, yaml_file = run.path.parent.parent, files / "local_choice.yaml"
    words = [str(run.path), f"runs_dir={runs}", "device=cpu"]
    assert command.run([*words, f"tasks={files / 'questions.jsonl'}"]) == 0
    own = read_json(run.path / "evaluate" / "questions.json", digest=True)
    assert 0 < own["score"] < 1
    assert command.run([*words, "backend=lm_eval", f"tasks={yaml_file},{files / 'local_text.yaml'}"]) == 0
    theirs = read_json(run.path / "evaluate" / "local_choice.json", digest=True)
    assert "local_choice (acc)" in capsys.readouterr().out
    assert theirs["shots"] == 0
    texts = read_json(run.path / "evaluate" / "local_text.json", digest=True)["each"]
    assert all(len(answer.encode()) <= 18 and "e" not in answer for one in texts for answer in one["answers"])

    hugging_face.write_folder(exported_model.read(run), files / "hf")
    before = sorted((files / "hf").iterdir())
    words = [str(files / "hf"), f"tasks={files / 'questions.jsonl'}", f"out={files / 'out'}", "device=cpu"]
    assert command.run(words) == 0
    folder = read_json(files / "out" / "questions.json", digest=True)
    assert folder["score"] == own["score"] and sorted((files / "hf").iterdir()) == before
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    found = simple_evaluate(
        model=HFLM(pretrained=str(files / "hf"), device="cpu", dtype="float32", batch_size=4),
        tasks=[str(yaml_file)],
        task_manager=TaskManager(include_defaults=False),
        bootstrap_iters=100,
    )
    exported = [[one[0] for one in sample["filtered_resps"]] for sample in found["samples"]["local_choice"]]
    for mine, through, of_folder in zip(own["each"], theirs["each"], exported, strict=True):
        assert through["answers"] == pytest.approx(mine["log_likelihoods"], rel=1e-6)
        assert of_folder == pytest.approx(mine["log_likelihoods"], rel=1e-6)
    accuracy = found["results"]["local_choice"]["acc,none"]
    assert accuracy == theirs["values"]["acc,none"] == pytest.approx(own["values"]["accuracy_sum"], abs=1e-6)
    assert theirs["values"]["acc_stderr,none"] == pytest.approx(found["results"]["local_choice"]["acc_stderr,none"])


def test_a_text_is_read_in_windows(make_run: MakeRun) -> None:
    from lm_eval.api.instance import Instance

    from gpt_lab.evaluate.harness import LabModel

    subject = of_run(make_run("one", tokenizer=Byte()), device="cpu")
    model, text = LabModel(subject, Asked()), "abcdefghij" * 4
    (total,) = model.loglikelihood_rolling([Instance("loglikelihood_rolling", {}, (text,), 0)])
    ids = [model.eot_token_id, *text.encode()]
    by_hand = 0.0
    for first in range(0, 40, 16):
        window = torch.tensor(ids[first : first + 17])
        by_hand -= torch.nn.functional.cross_entropy(
            subject.model(window[None, :-1])[0], window[1:], reduction="sum"
        ).item()
    assert total == pytest.approx(by_hand, abs=1e-3)


def asked_for(context: str, number: int = 0, **how: Any) -> Any:
    from lm_eval.api.instance import Instance

    return Instance("generate_until", {}, (context, how), 0, ("task", number, 1))


class Spaced(Byte):
    """Drops a blank in front, as SentencePiece does."""

    def decode_bytes(self, ids: list[int]) -> bytes:
        return super().decode_bytes(ids).removeprefix(b" ")


def test_generated_texts(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    from gpt_lab.evaluate.harness import LabModel

    sampled = {"do_sample": True, "max_gen_toks": 8}
    once = asked_for("abc", **sampled)
    requests = [once, once, asked_for("abc", 1, **sampled)]
    texts = LabModel(subject, Asked()).generate_until(requests)
    assert len(set(texts)) == 3 and texts == LabModel(subject, Asked()).generate_until(requests)
    assert LabModel(subject, Asked()).generate_until(requests[2:]) == texts[2:], "whatever else is asked"
    assert not {*LabModel(subject, Asked(seed=1)).generate_until(requests)} & {*texts}

    lengths = []

    def says(tokens_BT: torch.Tensor, **given: Any) -> torch.Tensor:
        lengths.append(tokens_BT.shape[1])
        following = torch.tensor([ord(" one stop"[lengths[-1] - 1])])
        return 50.0 * torch.nn.functional.one_hot(following, 256).float()[None]

    monkeypatch.setattr(subject.model, "forward", says)
    model = LabModel(subject._replace(tokenizer=Spaced()), Asked())
    assert model.generate_until([asked_for("a", until=["ne", "xyz"], max_gen_toks=9)]) == [" o"]
    assert max(lengths) == 4, "the first stop string ends it"
    with pytest.raises(ConfigError, match=r"48 new tokens .* context of 48: set generation_kwargs.max_gen_toks"):
        model.generate_until([asked_for("abc", max_gen_toks=48)])


@pytest.mark.parametrize(("shots", "given"), [(None, 3), (0, 0), (2, 2)])
def test_shots_are_those_that_were_given(
    subject: Subject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shots: int | None, given: int
) -> None:
    """The harness leaves a file's own number alone where it is told none, and where that is 0."""
    from gpt_lab.evaluate import harness

    own = [3]

    def evaluated(num_fewshot: int | None, **how: Any) -> dict[str, Any]:
        count = own[0] if num_fewshot is None or own[0] == 0 else num_fewshot
        return {"results": {"one": {"acc,none": 1.0}}, "n-shot": {"one": count}}

    monkeypatch.setattr(harness, "simple_evaluate", evaluated)
    (tmp_path / "one.yaml").write_text("task: one")
    files = [str(tmp_path / "one.yaml")]
    assert harness.measure(subject, files, Asked(), shots, lambda *told: None)["one"]["shots"] == given
    if shots:
        own[0] = 0
        with pytest.raises(ConfigError, match="shots=2, but the file of one has num_fewshot: 0"):
            harness.measure(subject, files, Asked(), shots, lambda *told: None)


def test_a_file_that_is_no_task(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run("one")
    with pytest.raises(DataError, match="is no task file"):
        command.run([str(run.path), "backend=lm_eval", "tasks=mmlu", "device=cpu"])
