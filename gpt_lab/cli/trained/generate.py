"""`generate`: text from a trained run, streamed to the terminal."""

from __future__ import annotations

import difflib
import functools
import io
import json
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO, get_type_hints

from gpt_lab.cli.common import key_values
from gpt_lab.cli.common.console_script import entry
from gpt_lab.console.lines import print_lines, show_help
from gpt_lab.console.streams import output_error
from gpt_lab.errors import ConfigError, LabError, cut, quoted
from gpt_lab.infer.request import GenerationRequest, read_prompts, start
from gpt_lab.options import NonEmpty

HELP = """\
usage: generate [key=value ...] [--no-cache] [--help]

Continues a text with a trained model.

  run=latest         latest, a study (its best run), STUDY/best, a run's name or its folder
  prompt=null        the text to continue; null: the run's own, words of its validation text; prompt="": a new text
  max_tokens=200     stop after this many new tokens, or at the end of text
  temperature=0.8    0: always the likeliest token; 1: the model's own distribution
  top_k=null         draw from the k likeliest tokens only
  top_p=null         draw from the smallest set of tokens with this probability
  min_p=null         draw from tokens at least this share as likely as the likeliest
  repetition_penalty=1.0
                     above 1: tokens that the text has already are less likely
  stop=[]            end in front of this text, or of the first of a JSON list
  seed=0             the same seed gives the same text
  samples=1          continuations; each is the same whatever their number
  prompts=null       a file of prompts, one a line (.jsonl: a JSON text or an object with "prompt"), continued together
  draft=null         a smaller run with the same tokenizer; it drafts tokens that the run reads in one pass, for speed
  checkpoint=null    best, last or step-N; null: best if there is one, else last
  device=auto        auto, cpu, cuda or mps
  runs_dir=runs      where the studies are
  cache=true         false, or --no-cache: read the whole text again for each token (for comparison)

Text goes to standard output; the run, the speed and the cache's size to standard error.
example: generate run=latest max_tokens=100 temperature=0.7 top_k=50
"""


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
    fields = get_type_hints(Arguments, include_extras=True)
    words = ["cache=false" if word == "--no-cache" else word for word in argv]
    for word in words:
        if word.startswith("-") or "=" not in word:
            flags = [f"{name}=..." for name in fields] + ["--no-cache", "--help"]
            close = difflib.get_close_matches(word, flags, n=1, cutoff=0.5)
            hint = f"; did you mean {close[0]}?" if close else f'; a text to continue is prompt="{cut(word)}"'
            raise ConfigError(f"arguments are key=value, not {quoted(word)}{hint}")
    found, others = key_values.read(words, fields, "generate", {"stop": _strings})
    if others:
        raise ConfigError(f"arguments are key=value, not {quoted(others[0])}")
    return Arguments(**found)


def _strings(text: str) -> list[Any]:
    """One stop string as it is, or a JSON list of several."""
    try:
        several = json.loads(text) if text.startswith("[") else None
    except (ValueError, RecursionError):
        several = None
    return several if isinstance(several, list) else [text]


def run(argv: list[str]) -> int:
    if {"--help", "-h"} & set(argv):
        show_help(HELP)
        return 0
    arguments = parse(argv)

    from gpt_lab.store import find_run

    left_out: dict[Path, str] = {}
    found = find_run(Path(arguments.runs_dir), arguments.run, left_out)
    draft = None if arguments.draft is None else find_run(Path(arguments.runs_dir), arguments.draft, left_out)
    for line in left_out.values():
        print(line, file=sys.stderr)
    from gpt_lab.model.skip_init import is_out_of_memory

    try:
        import torch

        with torch.inference_mode():  # no training follows, for which tables would have to serve
            _write(found, arguments, sys.stdout, sys.stderr, draft)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        letters = len(arguments.prompt or "")
        raise LabError(
            f"out of memory: shorten the prompt ({letters:,} characters), or lower samples and max_tokens"
        ) from error
    return 0


def _write(found: Any, arguments: Arguments, out: TextIO, err: TextIO, draft: Any = None) -> None:
    from gpt_lab.infer.generate import ENDED, Usage
    from gpt_lab.infer.light_layers import lighten
    from gpt_lab.infer.stream import StopStrings, TextStream
    from gpt_lab.infer.trained_model import load_run

    tell = functools.partial(print_lines, file=err)
    texts = [arguments.text(found)] if arguments.prompts is None else read_prompts(Path(arguments.prompts))
    if draft is not None:
        check_draft(found, draft)
    model, tokenizer, _, checkpoint = load_run(found, arguments.checkpoint, arguments.device, tell)
    drafting = None if draft is None else load_run(draft, None, arguments.device, tell).model
    for one in (model, drafting):
        if one is not None:
            lighten(one)
    tell(f"run {found.path}, checkpoint {checkpoint}, {next(model.parameters()).device.type}")
    prompts = [start(tokenizer, text) for text in texts]
    if isinstance(out, io.TextIOWrapper):
        out.reconfigure(errors="replace")  # a terminal that is not UTF-8 gets "?" and no traceback
    usage, samples = Usage(), arguments.samples
    steps = _steps(model, drafting, [ids for ids, _ in prompts], arguments, tokenizer.eot, usage)
    rows = [(TextStream(tokenizer, ids), StopStrings(arguments.stop)) for ids, _ in prompts for _ in range(samples)]
    written = [""] * len(rows)  # the first row is shown as it comes, the others when they are complete
    head = [label(row, len(prompts), samples) + prompts[row // samples][1] for row in range(len(rows))]
    count = 0
    began = time.perf_counter()
    print(head[0], end="", file=out, flush=True)
    for step in steps:
        if output_error(out):
            break
        for row, (token, (stream, stops)) in enumerate(zip(step, rows, strict=True)):
            if token == ENDED or row in usage.finished:
                continue
            count += 1
            piece = stops.push(stream.push(token))
            written[row] += piece
            if stops.met:
                usage.finished.add(row)
            if row == 0:
                print(piece, end="", file=out, flush=True)
        if len(usage.finished) == len(rows):
            break
    seconds = time.perf_counter() - began
    for row, (stream, stops) in enumerate(rows):
        rest = stops.push(stream.close()) + stops.close()
        print(rest if row == 0 else head[row] + written[row] + rest, file=out, flush=True)
    memory = f"cache {usage.cache_bytes / 1e6:.2f} MB" if usage.cache_bytes else "no cache"
    kept = f", {usage.accepted} of {usage.drafted} drafted tokens kept" if draft is not None else ""
    print_lines(f"{count} tokens in {seconds:.2f} s: {count / seconds:.0f} tokens/s, {memory}{kept}", err)


def _steps(
    model: Any, draft: Any, prompts: list[list[int]], arguments: Arguments, stop: int | None, usage: Any
) -> Iterable[list[int]]:
    """The tokens of each row, step by step."""
    from gpt_lab.infer import generate

    options = {"samples": arguments.samples, "stop": stop, "usage": usage, **arguments.sampling}
    if draft is not None:
        from gpt_lab.infer.speculative import generate_with_draft

        return generate_with_draft(model, draft, prompts[0], **options)
    if len(prompts) > 1:
        from gpt_lab.infer.several import generate_several

        return generate_several(model, prompts, **options)
    return generate.generate(model, prompts[0], **options)


def check_draft(found: Any, draft: Any) -> None:
    """Refuses a draft that writes other tokens.

    Raises:
        ConfigError: the two runs have different tokenizers.
    """
    from gpt_lab.infer.trained_model import same_tokenizer

    if not same_tokenizer(found, draft):
        raise ConfigError(
            f"draft={draft.path} has another tokenizer than {found.path}: a draft must be a run on the same data and "
            "tokenizer"
        )


def label(row: int, prompts: int, samples: int) -> str:
    """The line above one of several texts."""
    parts = [f"prompt {row // samples + 1} of {prompts}"] if prompts > 1 else []
    parts += [f"sample {row % samples + 1} of {samples}"] if samples > 1 else []
    return f"--- {', '.join(parts)} ---\n" if parts else ""


main = entry(run)

if __name__ == "__main__":
    main()
