"""`attention RUN prompt=...`: what a trained model looks at, by layer and head."""

from __future__ import annotations

import functools
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_type_hints

from gpt_lab.cli.common import key_values
from gpt_lab.cli.common.console_script import entry
from gpt_lab.console.lines import count_of, print_lines, show_help
from gpt_lab.errors import ConfigError
from gpt_lab.options import NonEmpty

HELP = """\
usage: attention RUN [prompt=TEXT] [key=value ...] [--help]

Draws the attention maps of a text, a figure for each layer with a panel for each head; of layers without weights
(recurrent ones) the norm of their state after each token. The weights are those that the model computes with.

  RUN                latest, a study (its best run), STUDY/best, a run's name or its folder
  prompt=null        the text, at most a context; null: the run's own, words of its validation text
  out=null           a folder for the figures (SVG and PNG); null: the run's, attention/
  wandb=false        true: also as images of a W&B run beside the study's
  checkpoint=null    best, last or step-N; null: best if there is one, else last
  runs_dir=runs      where the studies are

example: attention latest prompt="the king and the king"
exit status: 0 drawn, 2 bad input, and nothing is written
"""


@dataclass(frozen=True)
class Arguments:
    """What the command line may set; the annotations are the check."""

    run: NonEmpty
    prompt: str | None = None
    out: NonEmpty | None = None
    wandb: bool = False
    checkpoint: NonEmpty | None = None
    runs_dir: NonEmpty = "runs"


def parse(argv: list[str]) -> Arguments:
    """The arguments, checked.

    Raises:
        ConfigError: no or several runs, an unknown key or a value of the wrong type.
    """
    found, others = key_values.read(argv, get_type_hints(Arguments, include_extras=True), "attention")
    found = key_values.with_one(found, others, "run")
    if "run" not in found:
        raise ConfigError("attention needs a run: attention latest")
    return Arguments(**found)


def run(argv: list[str]) -> int:
    """Exit status: 0 drawn, 2 bad input."""
    if {"--help", "-h"} & {*argv}:
        show_help(HELP)
        return 0
    arguments = parse(argv)
    from gpt_lab.store import find_run

    found = find_run(arguments.runs_dir, arguments.run)
    from gpt_lab.infer.request import GenerationRequest, start
    from gpt_lab.infer.trained_model import load_run
    from gpt_lab.inside import attention_maps, map_figures
    from gpt_lab.store.atomic_files import writing

    say = functools.partial(print_lines, file=sys.stdout)
    trained = load_run(found, arguments.checkpoint, say=say)
    ids, _ = start(trained.tokenizer, GenerationRequest(prompt=arguments.prompt).text(found))
    seen = attention_maps.look(trained.model, ids)
    if not seen.maps and not seen.states:
        raise ConfigError(
            f"attention={trained.cfg.attention['name']} has no weights and keeps no state: nothing to draw"
        )
    out = Path(arguments.out) if arguments.out is not None else found.path / "attention"
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
    drawn = map_figures.draw(seen, [trained.tokenizer.decode([token]) for token in ids], out)
    what = [count_of(len(seen.maps), "map"), count_of(len(seen.states), "state")]
    counts = [text for text in what if not text.startswith("0 ")]
    say(f"{out}: {' and '.join(counts)} of {count_of(len(ids), 'token')}, checkpoint {trained.checkpoint}")
    if arguments.wandb:
        from gpt_lab.report.wandb_push import push_one

        def fill(run: Any) -> None:
            import wandb

            run.log({f"attention/{one.name}": wandb.Image(str(png), caption=one.caption) for one, png in drawn})

        config = {"run": found.name, "checkpoint": trained.checkpoint, "prompt": trained.tokenizer.decode(ids)}
        folder = str(found.path.parent)
        say(push_one("attention", f"attention of {found.name}", config, fill, folder, group=found.study))
    return 0


main = entry(run, works=lambda argv: True)

if __name__ == "__main__":
    main()
