"""lm-evaluation-harness (Gao et al.) as a backend: the model as one of its `LM`s, and its tasks from local files."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from gpt_lab.errors import ConfigError, DataError, LabError, one_line
from gpt_lab.evaluate.likelihood import Pair, encode, log_likelihoods
from gpt_lab.evaluate.subject import Subject
from gpt_lab.evaluate.task import Asked
from gpt_lab.infer.generate import generate
from gpt_lab.infer.stream import StopStrings, TextStream

if importlib.util.find_spec("lm_eval") is None:
    raise ConfigError("backend=lm_eval needs lm-evaluation-harness: uv sync --extra lm-eval")

from lm_eval import simple_evaluate
from lm_eval.api.model import TemplateLM
from lm_eval.tasks import TaskManager

MOST_NEW = 256
"""Tokens that a request generates which does not say how many."""


class LabModel(TemplateLM):
    """A model of the lab as lm-evaluation-harness asks one."""

    def __init__(self, subject: Subject, asked: Asked) -> None:
        super().__init__()
        self.subject, self.asked = subject, asked
        self.tokens = subject.needed_tokenizer

    @property
    def eot_token_id(self) -> int:
        """The end of text; a new line where the tokenizer has none."""
        return self.tokens.eot if self.tokens.eot is not None else encode(self.tokens, "\n", "the start")[0]

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        """The tokens of a text; none is added."""
        return encode(self.tokens, string)

    def _loglikelihood_tokens(
        self, requests: list[tuple[tuple[str, str], list[int], list[int]]], **kwargs: Any
    ) -> list[tuple[float, bool]]:
        pairs = [Pair(tuple(context), tuple(continuation)) for _, context, continuation in requests]
        found = log_likelihoods(self.subject.model, pairs, self.subject.context)
        return [(one.total, one.greedy) for one in found]

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
        """The log-likelihood of whole texts, in windows that do not overlap, each begun by the token before it."""
        totals = []
        for (text,) in (request.args for request in requests):
            ids = [self.eot_token_id, *encode(self.tokens, text)]
            size = self.subject.context
            pairs = [
                Pair((ids[first],), tuple(ids[first + 1 : first + 1 + size])) for first in range(0, len(ids) - 1, size)
            ]
            totals.append(sum(one.total for one in log_likelihoods(self.subject.model, pairs, size)))
        return totals

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        """Texts up to the first of the stop strings that each request names.

        Each draws by the seed asked for, its item and how often that was asked for before: repeats are different texts,
        and the same whichever other tasks are measured.

        Raises:
            ConfigError: a request asks for more than temperature, length and stop strings, or for as many tokens as the
                context has.
        """
        texts, times = [], Counter[tuple[Any, ...]]()
        for request in requests:
            context, how = request.args
            key = request.task_name, request.doc_id, request.idx
            seed = int(self.asked.generator("text", *key, times[key]).integers(2**62))
            times[key] += 1
            texts.append(self._until(context, dict(how), seed))
        return texts

    def _until(self, context: str, how: dict[str, Any], seed: int) -> str:
        until = how.pop("until", None) or []
        stops = [until] if isinstance(until, str) else list(until)
        number = int(how.pop("max_gen_toks", MOST_NEW))
        sampled = bool(how.pop("do_sample", False))
        temperature = float(how.pop("temperature", 1.0 if sampled else 0.0)) if sampled else 0.0
        how.pop("temperature", None)
        if how:
            raise ConfigError(f"backend=lm_eval: generation_kwargs {', '.join(sorted(how))} are not known here")
        room = self.subject.context - number
        if room < 1:
            raise ConfigError(
                f"backend=lm_eval: {number} new tokens leave no room for a prompt in a context of "
                f"{self.subject.context}: set generation_kwargs.max_gen_toks in the task file to fewer"
            )
        start = (encode(self.tokens, context) or [self.eot_token_id])[-room:]
        options: Any = {"max_tokens": number, "temperature": temperature, "seed": seed, "stop": self.tokens.eot}
        stream, until_one, text = TextStream(self.tokens, start), StopStrings(stops), ""
        for (token,) in generate(self.subject.model, start, **options):
            text += until_one.push(stream.push(token))
            if until_one.met:
                return text
        return text + until_one.push(stream.close()) + until_one.close()


def measure(
    subject: Subject,
    files: Sequence[str],
    asked: Asked,
    shots: int | None,
    told: Callable[[str, float, float | None, int | None], None],
) -> dict[str, dict[str, Any]]:
    """What lm-evaluation-harness makes of local task files; the record of each task by its name.

    Args:
        shots: examples before each item, in place of asked.shots; None: as many as the task file says.

    Raises:
        DataError: no such file. ConfigError: its tasks cannot be asked of this model. LabError: the harness fails.
    """
    paths = [Path(one).expanduser() for one in files]
    for path in paths:
        if path.suffix not in (".yaml", ".yml") or not path.is_file():
            raise DataError(f"backend=lm_eval: {path} is no task file (NAME.yaml)")
    model = LabModel(subject, asked)
    manager = TaskManager(include_path=sorted({str(path.parent) for path in paths}), include_defaults=False)
    try:
        found: Any = simple_evaluate(
            model=model,
            tasks=[str(path) for path in paths],
            num_fewshot=shots,
            limit=asked.items,
            task_manager=manager,
            bootstrap_iters=100,  # the errors of means have a formula, and are asked for so
            random_seed=asked.seed,
            numpy_random_seed=asked.seed,
            torch_random_seed=asked.seed,
            fewshot_random_seed=asked.seed,
        )
    except LabError:
        raise
    except Exception as error:
        raise LabError(f"backend=lm_eval: {one_line(f'{type(error).__name__}: {error}', 400)}") from error
    given, records = found["n-shot"], {}
    for name in found["results"]:
        if shots is not None and given.get(name, shots) != shots:
            raise ConfigError(
                f"backend=lm_eval: shots={shots}, but the file of {name} has num_fewshot: {given[name]}, which the "
                "harness does not change: take the line out of it"
            )
    for name, values in found["results"].items():
        numbers = {key: value for key, value in values.items() if isinstance(value, int | float)}
        items = (found.get("n-samples") or {}).get(name, {}).get("effective")
        for key, value in numbers.items():
            metric, _, way = key.partition(",")
            if not metric.endswith("_stderr") and way:
                told(f"{name} ({metric})", float(value), _number(numbers.get(f"{metric}_stderr,{way}")), items)
        records[name] = {
            "task": name,
            "backend": "lm_eval",
            "version": importlib.metadata.version("lm_eval"),
            "checkpoint": subject.checkpoint,
            "weights": subject.digest,
            "context": subject.context,
            **asked._asdict(),
            "shots": given.get(name),
            "measured": items,
            "values": numbers,
            "each": [_item(one) for one in (found.get("samples") or {}).get(name, [])],
        }
    return records


def _item(sample: Mapping[str, Any]) -> dict[str, Any]:
    """What an item's answers were; of a likelihood, its logarithm."""
    answers = [one[0] if isinstance(one, list | tuple) else one for one in sample["filtered_resps"]]
    return {"number": sample["doc_id"], "answers": answers}


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) else None
