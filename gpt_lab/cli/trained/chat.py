"""`chat RUN [RUN]`: a conversation with one trained model or two, in the terminal."""

from __future__ import annotations

import functools
import sys
from dataclasses import dataclass
from typing import Annotated, Literal, get_type_hints

from gpt_lab.cli.common import key_values
from gpt_lab.cli.common.console_script import entry
from gpt_lab.console.lines import print_lines, show_help
from gpt_lab.errors import ConfigError
from gpt_lab.options import Device, NonEmpty, NonNegativeFloat, NonNegativeInt, PositiveInt, Range

HELP = """\
usage: chat [RUN] [RUN] [key=value ...] [--help]

Reads prompts, a line each, and shows what a trained model makes of them; with
two models side by side, from the same random numbers, and where they part.

  RUN                latest (where none is given), a study (its best run),
                     STUDY/best, a run's name or its folder, or a folder in
                     Hugging Face's form
  mode=auto          completion: continues each prompt by itself; chat: by the
                     model's chat template; auto: chat where all have one
  max_tokens=200     new tokens of an answer at most
  temperature=0.8    0: always the likeliest token
  top_p=null         draw from the smallest set of tokens with this probability
  seed=0             the same seed gives the same answers
  checkpoint=null    of all runs: best, last or step-N; null: each one's best
  device=auto        auto, cpu, cuda or mps
  runs_dir=runs      where the studies are

In it: /reset /seed N /temperature X /tokens N /export FILE.html /help /quit
examples:
  chat latest
  chat pos_enc/rope-seed0 pos_enc/alibi-seed0 temperature=0
  echo "ROMEO:" | chat latest
"""


@dataclass(frozen=True)
class Arguments:
    """What the command line may set; the annotations are the check."""

    models: tuple[str, ...] = ("latest",)
    mode: Literal["auto", "completion", "chat"] = "auto"
    max_tokens: PositiveInt = 200
    temperature: NonNegativeFloat = 0.8
    top_p: Annotated[float, Range(low=0, high=1, open_low=True)] | None = None
    seed: NonNegativeInt = 0
    checkpoint: NonEmpty | None = None
    device: Device = "auto"
    runs_dir: NonEmpty = "runs"


def parse(argv: list[str]) -> Arguments:
    """The arguments, checked.

    Raises:
        ConfigError: three models or more, an unknown key, a value of the wrong type.
    """
    fields = get_type_hints(Arguments, include_extras=True)
    del fields["models"]
    found, models = key_values.read(argv, fields, "chat")
    if len(models) > 2:
        raise ConfigError(f"chat shows two models at most, not {len(models)}")
    return Arguments(tuple(models) or ("latest",), **found)


def run(argv: list[str]) -> int:
    """Exit status: 0 left as asked, 2 bad input."""
    if {"--help", "-h"} & {*argv}:
        show_help(HELP)
        return 0
    arguments = parse(argv)
    say = functools.partial(print_lines, file=sys.stderr)
    from gpt_lab.serve import served_model

    found = served_model.load(arguments.models, arguments.runs_dir, arguments.checkpoint, arguments.device, say)
    models = {name: one for name, one in found.items() if isinstance(one, served_model.LocalModel)}
    if len(models) < len(found):
        raise ConfigError("chat takes runs and folders: `serve` shows models of other servers")
    from rich.console import Console

    from gpt_lab.chat.loop import converse
    from gpt_lab.chat.session import Session, Settings

    settings = Settings(arguments.temperature, arguments.top_p, arguments.seed, arguments.max_tokens)
    chat = {"auto": None, "completion": False, "chat": True}[arguments.mode]
    with Session(models, settings, chat) as session:
        say(f"{'chat' if session.chat else 'completion'} with {' and '.join(models)}; /help lists commands")
        converse(session, Console(highlight=False), sys.stdin)
    return 0


main = entry(run)

if __name__ == "__main__":
    main()
