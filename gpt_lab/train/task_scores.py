"""Tasks at the end of a run: checked before it begins, measured on its final weights as `evaluate` does."""

from __future__ import annotations

from gpt_lab.config.schema import RunConfig
from gpt_lab.data.base import Dataset
from gpt_lab.errors import ConfigError, LabError
from gpt_lab.evaluate import task_runs
from gpt_lab.evaluate.subject import Subject, of_run
from gpt_lab.evaluate.task import Asked
from gpt_lab.evaluate.task_names import find_all
from gpt_lab.metrics import EVAL
from gpt_lab.model.gpt import GPT
from gpt_lab.store import Run
from gpt_lab.store.run import EVALUATED


def digests(cfg: RunConfig, dataset: Dataset, model: GPT) -> dict[str, str]:
    """What the tasks of a config ask, by name, for its signature; they can be asked of this model.

    Raises:
        ConfigError: no such task, or one that is not for such a model. DataError: a file that cannot be read, or a
            question that the tokenizer cannot write.
    """
    names = find_all(cfg.eval.tasks)
    if names and not model.shape.causal:
        raise ConfigError(
            f"eval.tasks ask for the next tokens, and objective={cfg.objective['name']} predicts none: leave them out"
        )
    subject, asked = Subject(model, dataset.tokenizer, cfg, cfg.scale.context, None, ""), _asked(cfg)
    for name, task in zip(names, task_runs.prepared(names, asked), strict=True):
        try:
            task.check(subject, asked)
        except LabError as error:
            raise type(error)(f"eval.tasks, {name.name}: {error}") from None
    return {EVAL + name.name: name.digest for name in names}


def scores(run: Run, cfg: RunConfig, device: str) -> dict[str, float]:
    """eval/NAME of each task, of the run's last checkpoint, in fp32; every item goes into the run's folder."""
    if not cfg.eval.tasks:
        return {}
    subject = of_run(run, "last", device)
    found = task_runs.measure(subject, find_all(cfg.eval.tasks), _asked(cfg), lambda name, task, result: None)
    task_runs.write(run.path / EVALUATED, found)
    return {EVAL + name: float(one["score"]) for name, one in found.items()}


def _asked(cfg: RunConfig) -> Asked:
    """Questions are the same for every seed of a run, so that arms and seeds are asked the same."""
    return Asked(cfg.eval.items, cfg.eval.shots)
