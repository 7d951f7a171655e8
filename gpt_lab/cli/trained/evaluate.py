"""`evaluate RUN tasks=...`: a model measured on tasks."""

from __future__ import annotations

import functools
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, get_type_hints

from gpt_lab.cli.common import key_values
from gpt_lab.cli.common.console_script import entry
from gpt_lab.console.lines import print_lines, show_help
from gpt_lab.errors import ConfigError
from gpt_lab.options import Device, NonEmpty, NonNegativeInt, PositiveInt, Range

HELP = """\
usage: evaluate RUN|FOLDER tasks=NAME[,NAME ...] [key=value ...] [--help]

Measures a model on tasks. Results of a run go into its folder, evaluate/NAME.json, with every item.

  RUN|FOLDER         latest, a study (its best run), STUDY/best, a run's name or its folder; a Hugging Face folder
  tasks              names, and files: NAME.jsonl (items) or NAME.txt (a text)
  shots=null         examples before each item of a file; null: none, of
                     backend=lm_eval as many as the task file says
  items=500          at most so many items, or windows of text
  seed=0             of what is drawn: made questions, examples
  context=null       the most tokens read at once; null: as in training
  checkpoint=null    best, last or step-N; null: best if there is one, else last
  device=auto        auto, cpu, cuda or mps
  backend=own        lm_eval: tasks are task files of lm-evaluation-harness, NAME.yaml (extra: lm-eval)
  out=null           a folder for the results; null: the run's, of a Hugging Face folder none
  runs_dir=runs      where the studies are

tasks that need no file:
  val_bpb            bits per byte of the run's validation text, by position and context
  cloze              the last word of a made passage, which stood in it before
  needle             a word of one sentence in a context full of others, by depth
  mqar               the values of keys, from pairs read before (Arora et al. 2023)
  induction          random tokens once more (Olsson et al. 2022)

examples:
  evaluate latest tasks=needle,induction
  evaluate my_model tasks=questions.jsonl shots=3
exit status: 0 measured, 2 bad input, and nothing is written
"""


@dataclass(frozen=True)
class Arguments:
    """What the command line may set; the annotations are the check."""

    run: NonEmpty
    tasks: NonEmpty
    shots: Annotated[int, Range(low=0, high=100)] | None = None
    items: PositiveInt = 500
    seed: NonNegativeInt = 0
    context: PositiveInt | None = None
    checkpoint: NonEmpty | None = None
    device: Device = "auto"
    backend: Literal["own", "lm_eval"] = "own"
    out: NonEmpty | None = None
    runs_dir: NonEmpty = "runs"

    @property
    def names(self) -> list[str]:
        """The tasks that were asked for."""
        return [name for name in self.tasks.strip("[]").split(",") if name]


def parse(argv: list[str]) -> Arguments:
    """The arguments, checked.

    Raises:
        ConfigError: no or several runs, no task, an unknown key or a value of the wrong type.
    """
    found, others = key_values.read(argv, get_type_hints(Arguments, include_extras=True), "evaluate")
    found = key_values.with_one(found, others, "run")
    for key, example in (("run", "latest tasks=induction"), ("tasks", f"{found.get('run', 'latest')} tasks=induction")):
        if key not in found:
            what = "a run or a folder" if key == "run" else "tasks"
            raise ConfigError(f"evaluate needs {what}: evaluate {example}")
    made = Arguments(**found)
    if not made.names:
        raise ConfigError("evaluate needs tasks: tasks=induction,needle")
    return made


def run(argv: list[str]) -> int:
    """Exit status: 0 measured, 2 bad input."""
    if {"--help", "-h"} & {*argv}:
        show_help(HELP)
        return 0
    arguments = parse(argv)
    from gpt_lab.evaluate import task_names

    own = arguments.backend == "own"
    names = task_names.find_all(arguments.names) if own else []
    from gpt_lab.errors import DataError
    from gpt_lab.interchange import released_folder
    from gpt_lab.store import find_run
    from gpt_lab.store.run import EVALUATED

    folder, found = Path(arguments.run).expanduser(), None
    if released_folder.is_one(folder):
        if arguments.checkpoint is not None:
            raise ConfigError(f"checkpoint={arguments.checkpoint}: a Hugging Face folder has none: leave it out")
    else:
        try:
            found = find_run(arguments.runs_dir, arguments.run)
        except DataError as error:
            raise DataError(f"{error}; a Hugging Face folder has a config.json") from None
    from gpt_lab.evaluate import result_table, subject, task_runs
    from gpt_lab.evaluate.task import Asked

    say = functools.partial(print_lines, file=sys.stderr)
    where = arguments.device, arguments.context
    if found is None:
        made = subject.of_folder(folder, *where)
    else:
        made = subject.of_run(found, arguments.checkpoint, *where, say=say)
    say(f"{made.run.path if made.run else folder}, {made.checkpoint or 'its weights'}, context {made.context}")
    asked = Asked(arguments.items, arguments.shots or 0, arguments.seed)
    table = result_table.ResultTable(sys.stdout)
    if own:
        results = task_runs.measure(made, names, asked, table.add)
    else:
        from gpt_lab.evaluate import harness

        results = harness.measure(made, arguments.names, asked, arguments.shots, table.add_row)
    table.close()
    place = Path(arguments.out) if arguments.out is not None else None
    if place is None and made.run is not None:
        place = made.run.path / EVALUATED
    if place is not None:
        task_runs.write(place, results)
        say(f"results: {place}")
    return 0


main = entry(run, works=lambda argv: True)

if __name__ == "__main__":
    main()
