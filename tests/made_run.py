"""Run folders as training leaves them, without training."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from gpt_lab.data.tokenizers.simple import Byte
from gpt_lab.data.tokenizers.tokenizer import Tokenizer
from gpt_lab.digests import write_sums
from gpt_lab.model.gpt import GPT, initialize
from gpt_lab.store import Run
from gpt_lab.train.validation.sample import save_tokenizer
from tests.helpers import tiny_config

MakeRun = Callable[..., Run]


def run_maker(folder: Path) -> MakeRun:
    """make_run(name, study=..., tokenizer=..., checkpoints={"step-1": model seed, ...}, links={"last": "step-1"})."""

    def make(
        name: str,
        *,
        study: str = "default",
        tokenizer: Tokenizer | None = None,
        checkpoints: dict[str, int] | None = None,
        links: dict[str, str] | None = None,
        summary: dict[str, float] | None = None,
        **overrides: Any,
    ) -> Run:
        tokenizer = tokenizer or Byte()
        cfg = tiny_config(study=study, runs_dir=str(folder / "runs"), **overrides)
        run = Run.create(folder / "runs", study, name, cfg.to_dict(), {"signature": name, "seed": 0})
        save_tokenizer(tokenizer, run.path / "tokenizer")
        for checkpoint, seed in ({"step-1": 0} if checkpoints is None else checkpoints).items():
            torch.manual_seed(seed)
            model = GPT(cfg, tokenizer.vocab_size)
            initialize(model, tiny_config(seed=seed, **overrides))
            with torch.no_grad():
                for parameter in model.parameters():
                    if parameter.ndim > 1:
                        parameter.mul_(6)
            place = run.path / "checkpoints" / checkpoint
            place.mkdir(parents=True)
            save_file(model.state_dict(), place / "model.safetensors")
            write_sums(place)
        for link, target in ({"last": "step-1", "best": "step-1"} if links is None else links).items():
            (run.path / "checkpoints" / link).symlink_to(target)
        run.finish("finished", summary or {"val/bpb": 2.0})
        return run

    return make
