"""`export RUN to=hf`: a run as other programs read it, opened and compared before it is there."""

from __future__ import annotations

import functools
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_type_hints

from gpt_lab.cli.common import key_values
from gpt_lab.cli.common.console_script import entry
from gpt_lab.console.lines import print_lines, show_help
from gpt_lab.errors import ConfigError
from gpt_lab.options import NonEmpty

HELP = """\
usage: export RUN to=hf|gguf [key=value ...] [--help]

Writes a run's model for other programs. What was written is opened again and compared with the run's logits on random
tokens and its greedy text; if anything differs, or an option has no counterpart there, nothing is written.

  RUN                latest, a study (its best run), STUDY/best, a run's name or its folder
  to=hf              a folder for transformers: the family's own class, safetensors, tokenizer, generation config
  to=gguf            a folder with model.gguf, for llama.cpp: models of Llama's shape
  custom=false       true: with a modeling file of its own, for any model (trust_remote_code=True opens it)
  out=null           the new folder; null: the run's folder and the format's name
  checkpoint=null    best, last or step-N; null: best if there is one, else last
  runs_dir=runs      where the studies are

examples:
  export latest to=hf out=my_model
  export latest to=hf custom=true out=any_model
exit status: 0 written and equal, 2 nothing is written, and the line says why
"""


@dataclass(frozen=True)
class Arguments:
    """What the command line may set; the annotations are the check."""

    run: NonEmpty
    to: Literal["hf", "gguf"]
    custom: bool = False
    out: NonEmpty | None = None
    checkpoint: NonEmpty | None = None
    runs_dir: NonEmpty = "runs"


def parse(argv: list[str]) -> Arguments:
    """The arguments, checked.

    Raises:
        ConfigError: no or several runs, no format, an unknown key or a value of the wrong type.
    """
    fields = get_type_hints(Arguments, include_extras=True)
    found, others = key_values.read(argv, fields, "export")
    found = key_values.with_one(found, others, "run")
    if found.get("custom") and found.get("to") == "gguf":
        raise ConfigError("custom=true is for to=hf: a gguf file holds no code")
    for key, example in (("run", "export latest to=hf"), ("to", f"export {found.get('run', 'latest')} to=hf")):
        if key not in found:
            raise ConfigError(f"export needs {'a run' if key == 'run' else 'a format'}: {example}")
    return Arguments(**found)


def run(argv: list[str]) -> int:
    """Exit status: 0 written and equal, 2 bad input or nothing written."""
    if {"--help", "-h"} & {*argv}:
        show_help(HELP)
        return 0
    arguments = parse(argv)
    from gpt_lab.store import find_run

    found = find_run(arguments.runs_dir, arguments.run)
    out = Path(arguments.out) if arguments.out is not None else found.path / arguments.to
    from gpt_lab.export import custom_code, exported_model, gguf_file, hugging_face

    say = functools.partial(print_lines, file=sys.stdout)
    write = {"hf": hugging_face.write_folder, "gguf": gguf_file.write_folder}[arguments.to]
    if arguments.custom:
        write = custom_code.write_folder
    made = write(exported_model.read(found, arguments.checkpoint, say), out, say)
    say(f"{out}: {made.architecture}, logits equal to {made.difference:.0e}")
    return 0


main = entry(run, works=lambda argv: True)

if __name__ == "__main__":
    main()
