"""`generate`: text from a trained run, streamed to the terminal."""

from __future__ import annotations

import difflib
import functools
import io
import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO, get_type_hints

from gpt_lab.cli.common.console_script import entry
from gpt_lab.console.lines import print_lines, show_help
from gpt_lab.console.streams import output_error
from gpt_lab.errors import ConfigError, LabError, cut, quoted, unknown
from gpt_lab.infer.request import GenerationRequest, start
from gpt_lab.options import NonEmpty, check

HELP = """\
usage: generate [key=value ...] [--no-cache] [--help]

Continues a text with a trained model.

  run=latest         latest, a study (its best run), STUDY/best, a run's name or its folder
  prompt=null        the text to continue; null: the run's own, words of its validation text; prompt="": a new text
  max_tokens=200     stop after this many new tokens, or at the end of text
  temperature=0.8    0: always the likeliest token; 1: the model's own distribution
  top_k=null         draw from the k likeliest tokens only
  top_p=null         draw from the smallest set of tokens with this probability
  seed=0             the same seed gives the same text
  samples=1          continuations; each is the same whatever their number
  checkpoint=null    best, last or step-N; null: best if there is one, else last
  device=auto        auto, cpu or cuda
  runs_dir=runs      where the studies are
  cache=true         false, or --no-cache: read the whole text again for each token (for comparison)

Text goes to standard output; the run, the speed and the cache's size to standard error.
example: generate run=latest max_tokens=100 temperature=0.7 top_k=50
"""


TEXTS = ("run", "prompt", "runs_dir")
"""Arguments that are text, whatever they look like."""


@dataclass(frozen=True)
class Arguments(GenerationRequest):
    """What the command line may set; the annotations are the check."""

    run: NonEmpty = "latest"
    runs_dir: NonEmpty = "runs"


def parse(argv: list[str]) -> Arguments:
    """The arguments, checked.

    Raises:
        ConfigError: an unknown key, a value of the wrong type, or a word that is not key=value.
    """
    types = get_type_hints(Arguments, include_extras=True)
    found: dict[str, Any] = {}
    for word in argv:
        key, equals, value = word.partition("=")
        if word == "--no-cache":
            found["cache"] = False
        elif not equals or word.startswith("-"):
            flags = [f"{name}=..." for name in types] + ["--no-cache", "--help"]
            close = difflib.get_close_matches(word, flags, n=1, cutoff=0.5)
            hint = f"; did you mean {close[0]}?" if close else f'; a text to continue is prompt="{cut(word)}"'
            raise ConfigError(f"arguments are key=value, not {quoted(word)}{hint}")
        elif key not in types:
            raise ConfigError(unknown("argument", key, types))
        else:
            given = check(key, value if key in TEXTS else _scalar(value), types[key])
            if found.setdefault(key, given) != given:
                raise ConfigError(f"{key} is given twice, as {quoted(found[key])} and {quoted(given)}: leave one out")
    return Arguments(**found)


def _scalar(text: str) -> Any:
    """Numbers, true, false and null as such; anything else is text."""
    try:
        return json.loads({"True": "true", "False": "false", "None": "null"}.get(text, text))
    except (ValueError, RecursionError):
        return float(text) if text.lower() in ("nan", "inf", "-inf") else text


def run(argv: list[str]) -> int:
    if {"--help", "-h"} & set(argv):
        show_help(HELP)
        return 0
    arguments = parse(argv)

    from gpt_lab.store import find_run

    left_out: dict[Path, str] = {}
    found = find_run(Path(arguments.runs_dir), arguments.run, left_out)
    for line in left_out.values():
        print(line, file=sys.stderr)
    from gpt_lab.model.skip_init import is_out_of_memory

    try:
        _write(found, arguments, sys.stdout, sys.stderr)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        letters = len(arguments.prompt or "")
        raise LabError(
            f"out of memory: shorten the prompt ({letters:,} characters), or lower samples and max_tokens"
        ) from error
    return 0


def _write(found: Any, arguments: Arguments, out: TextIO, err: TextIO) -> None:
    from gpt_lab.infer.generate import ENDED, Usage, generate
    from gpt_lab.infer.stream import TextStream
    from gpt_lab.infer.trained_model import load_run

    tell = functools.partial(print_lines, file=err)
    model, tokenizer, _, checkpoint = load_run(found, arguments.checkpoint, arguments.device, tell)
    tell(f"run {found.path}, checkpoint {checkpoint}, {next(model.parameters()).device.type}")
    prompt_ids, shown = start(tokenizer, arguments.text(found))
    if isinstance(out, io.TextIOWrapper):
        out.reconfigure(errors="replace")  # a terminal that is not UTF-8 gets "?" and no traceback
    usage = Usage()
    steps = generate(
        model, prompt_ids, samples=arguments.samples, stop=tokenizer.eot, usage=usage, **arguments.sampling
    )
    streams = [TextStream(tokenizer, prompt_ids) for _ in range(arguments.samples)]
    texts = [""] * arguments.samples  # the first sample is shown as it comes, the others when it is complete
    count = 0
    began = time.perf_counter()
    print(label(0, arguments.samples) + shown, end="", file=out, flush=True)
    for step in steps:
        if output_error(out):
            break
        for i, token in enumerate(step):
            if token == ENDED:
                continue
            count += 1
            piece = streams[i].push(token)
            texts[i] += piece
            if i == 0:
                print(piece, end="", file=out, flush=True)
    seconds = time.perf_counter() - began
    print(streams[0].close(), file=out, flush=True)
    for i in range(1, arguments.samples):
        print(label(i, arguments.samples) + shown + texts[i] + streams[i].close(), file=out, flush=True)
    memory = f"cache {usage.cache_bytes / 1e6:.2f} MB" if usage.cache_bytes else "no cache"
    print_lines(f"{count} tokens in {seconds:.2f} s: {count / seconds:.0f} tokens/s, {memory}", err)


def label(sample: int, samples: int) -> str:
    """The line above one of several samples."""
    return f"--- sample {sample + 1} of {samples} ---\n" if samples > 1 else ""


main = entry(run)

if __name__ == "__main__":
    main()
