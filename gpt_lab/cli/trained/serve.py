"""`serve [RUN ...]`: an OpenAI-compatible server of trained runs, with a page for two of them side by side."""

from __future__ import annotations

import functools
import os
import sys
from dataclasses import dataclass
from typing import Annotated, get_type_hints

from gpt_lab.cli.common import key_values
from gpt_lab.cli.common.console_script import entry
from gpt_lab.console.lines import print_lines, show_help
from gpt_lab.errors import ConfigError, LabError
from gpt_lab.options import Device, NonEmpty, PositiveInt, Range
from gpt_lab.serve.credentials import LOCAL_HOSTS, is_key

KEY = "GPT_LAB_SERVE_KEY"
HELP = """\
usage: serve [MODEL ...] [key=value ...] [--help]

Serves trained models under OpenAI's API (/v1/models, /v1/completions,
/v1/chat/completions) and on a page that shows two of them side by side.

  MODEL              latest (where none is given), a study (its best run),
                     STUDY/best, a run's name or its folder, a folder in
                     Hugging Face's form, or http://HOST/v1#MODEL for a model of
                     another such server (its key: OPENAI_API_KEY or HF_TOKEN)
  host=127.0.0.1     the address to listen on; any other needs a key
  port=8000          0: any free one
  key=null           requests must bear it; better set GPT_LAB_SERVE_KEY
  checkpoint=null    of all runs: best, last or step-N; null: each one's best
  device=auto        auto, cpu, cuda or mps
  rows=32            continuations that run at once
  queue=128          continuations that wait; more are refused (429)
  tokens=4096        tokens of a prompt and its continuation together
  body=1000000       bytes of a request
  runs_dir=runs      where the studies are

example: serve pos_enc/rope-seed0 pos_enc/alibi-seed0
Stops at Ctrl-C or SIGTERM: running continuations have five seconds to end.
"""
EXTRA = ("fastapi", "uvicorn", "httpx")
Port = Annotated[int, Range(low=0, high=65535)]
Rows = Annotated[int, Range(low=1, high=4096)]
Queue = Annotated[int, Range(low=0, high=100_000)]


@dataclass(frozen=True)
class Arguments:
    """What the command line may set; the annotations are the check."""

    models: tuple[str, ...] = ("latest",)
    host: NonEmpty = "127.0.0.1"
    port: Port = 8000
    key: NonEmpty | None = None
    checkpoint: NonEmpty | None = None
    device: Device = "auto"
    rows: Rows = 32
    queue: Queue = 128
    tokens: PositiveInt = 4096
    body: PositiveInt = 1_000_000
    runs_dir: NonEmpty = "runs"


def parse(argv: list[str]) -> Arguments:
    """The arguments, checked.

    Raises:
        ConfigError: an unknown key, a value of the wrong type, an address that others reach and no key.
    """
    fields = get_type_hints(Arguments, include_extras=True)
    del fields["models"]
    found, models = key_values.read(argv, fields, "serve", secrets=("key",))
    if found.get("key") is None:
        found["key"] = os.environ.get(KEY, "").strip() or None
    made = Arguments(tuple(models) or ("latest",), **found)
    if made.key is not None and not is_key(made.key):
        raise ConfigError(
            f"a key is printable ASCII characters without spaces around them: set another, as in {KEY}=..."
        )
    if made.host not in LOCAL_HOSTS and made.key is None:
        raise ConfigError(f"host={made.host} can be reached by others: set a key, as in {KEY}=...")
    return made


def run(argv: list[str]) -> int:
    """Exit status: 0 stopped as asked, 2 bad input."""
    if {"--help", "-h"} & {*argv}:
        show_help(HELP)
        return 0
    arguments = parse(argv)
    say = functools.partial(print_lines, file=sys.stderr)
    from gpt_lab.serve import served_model
    from gpt_lab.serve.guard import Limits

    try:
        from gpt_lab.serve import running
    except ModuleNotFoundError as error:
        if error.name not in EXTRA:
            raise
        raise LabError(f"serve needs {error.name}: `uv sync --extra serve` installs it") from None
    models = served_model.load(arguments.models, arguments.runs_dir, arguments.checkpoint, arguments.device, say)
    for name in models:
        say(f"serves {name}")
    limits = Limits(arguments.body, arguments.tokens, arguments.rows, arguments.queue)
    running.serve(models, limits, arguments.host, arguments.port, arguments.key, say)
    return 0


main = entry(run)

if __name__ == "__main__":
    main()
