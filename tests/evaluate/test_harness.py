"""lm-evaluation-harness on local tasks: of an exported run and of the run itself, against the lab's own numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from gpt_lab.cli.trained import evaluate as command
from gpt_lab.data.tokenizers.simple import Byte
from gpt_lab.errors import DataError
from gpt_lab.evaluate.subject import of_run
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
    model, text = LabModel(subject), "abcdefghij" * 4
    (total,) = model.loglikelihood_rolling([Instance("loglikelihood_rolling", {}, (text,), 0)])
    import torch

    ids = [model.eot_token_id, *text.encode()]
    by_hand = 0.0
    for first in range(0, 40, 16):
        window = torch.tensor(ids[first : first + 17])
        by_hand -= torch.nn.functional.cross_entropy(
            subject.model(window[None, :-1])[0], window[1:], reduction="sum"
        ).item()
    assert total == pytest.approx(by_hand, abs=1e-3)


def test_a_file_that_is_no_task(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run("one")
    with pytest.raises(DataError, match="is no task file"):
        command.run([str(run.path), "backend=lm_eval", "tasks=mmlu", "device=cpu"])
