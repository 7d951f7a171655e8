"""`lab.run("latest")`: one run of the store, its settings, its curve, its model."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpt_lab.infer.request import GenerationRequest, start
from gpt_lab.options import Device
from gpt_lab.store import Run, find_run

if TYPE_CHECKING:
    import pandas as pd

    from gpt_lab.data.tokenizers.tokenizer import Tokenizer
    from gpt_lab.infer.trained_model import Trained
    from gpt_lab.model.gpt import GPT


def run(name: str | os.PathLike[str] = "latest", *, runs_dir: str | os.PathLike[str] = "runs") -> RunView:
    """A run, as `generate` finds it.

    Args:
        name: a run's folder; "latest"; a study (its best run); "STUDY/best", "STUDY/latest" or "STUDY/RUN"; a run's
            name, if only one study has it.
        runs_dir: where the studies are.

    Raises:
        DataError: no such run, several, or none with a result; the line offers the closest names.
    """
    return RunView(find_run(runs_dir, os.fspath(name)))


class RunView:
    """A run's folder: `path` and what is in it, read when it is asked for."""

    def __init__(self, stored: Run) -> None:
        self._run = stored
        self._loaded: dict[tuple[str | None, Device], Trained] = {}

    @property
    def path(self) -> Path:
        return self._run.path

    @property
    def state(self) -> str:
        """running, finished, stopped, failed or diverged."""
        return self._run.state

    @property
    def config(self) -> dict[str, Any]:
        """All settings, nested: run.config["optim"]["lr"]."""
        return self._run.config

    @property
    def summary(self) -> dict[str, Any]:
        """Final values by metric name; empty before the run has finished."""
        return self._run.summary

    @property
    def metrics(self) -> pd.DataFrame:
        """The curve so far: step, tokens, flops, seconds and a column for each metric; NaN where a step has none."""
        from gpt_lab.frame.sources import store_runs

        return store_runs.curves([str(self.path)])[str(self.path)]

    def load(self, checkpoint: str | None = None, device: Device = "cpu") -> GPT:
        """The trained model (fp32, eval mode): tokens (B, T) to logits (B, T, V).

        Args:
            checkpoint: best, last or step-N; None: best if there is one, else last.

        Raises:
            ConfigError: no such checkpoint or device. DataError: damaged files, or a run on data that is not text.
        """
        return self._trained(checkpoint, device).model

    @property
    def tokenizer(self) -> Tokenizer:
        """encode(text) and decode(ids), as the run was trained with."""
        return self._trained(None, "cpu").tokenizer

    def generate(
        self,
        prompt: str | None = None,
        *,
        max_tokens: int = 200,
        temperature: float = 0.8,
        top_k: int | None = None,
        top_p: float | None = None,
        seed: int = 0,
        checkpoint: str | None = None,
        device: Device = "cpu",
    ) -> str:
        """The prompt and its continuation: the text that `generate` prints for the same options.

        Args:
            prompt: None: the run's own, words of its validation text; "": a new text.
            temperature: 0: always the likeliest token; 1: the model's own distribution.
            top_k, top_p: draw from the k likeliest tokens, from the smallest set with this probability, only.

        Raises:
            ConfigError: an option out of range, a prompt that the tokenizer cannot write. DataError: as load.
        """
        from gpt_lab.infer import generate, stream

        request = GenerationRequest(
            prompt=prompt,
            max_tokens=max_tokens,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            seed=seed,
            checkpoint=checkpoint,
            device=device,
        )
        trained = self._trained(checkpoint, device)
        ids, shown = start(trained.tokenizer, request.text(self._run))
        (tokens,) = generate.complete(trained.model, ids, stop=trained.tokenizer.eot, **request.sampling)
        return shown + stream.text(trained.tokenizer, tokens, ids)

    def _trained(self, checkpoint: str | None, device: Device) -> Trained:
        from gpt_lab.infer.trained_model import load_run

        if (checkpoint, device) not in self._loaded:
            self._loaded[checkpoint, device] = load_run(self._run, checkpoint, device)
        return self._loaded[checkpoint, device]

    def __repr__(self) -> str:
        from gpt_lab import metrics

        final = self.summary
        known = [f"{key} {final[key]:.4f}" for key in (metrics.HEADLINE, metrics.WITHOUT_TEXT) if final.get(key)]
        return f"run {self.path}: {', '.join([self.state, *known[:1]])}"
