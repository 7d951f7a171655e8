"""`upload [FOLDER ...]`: what the W&B server does not have of runs, from their folders."""

from __future__ import annotations

from gpt_lab.cli.common.console_script import entry
from gpt_lab.cli.common.strict_parser import Parser
from gpt_lab.console.invocation import prefix
from gpt_lab.project import near

DESCRIPTION = """\
Send to W&B what it does not have of runs: those that were logged offline, and those whose server was down, slow or \
refused while they were trained. Rows come from the run folders, in order, each once; what the server has stays.
"""
EPILOG = """\
examples:
  upload                       every run in runs/
  upload runs/pos_enc          a study
  upload runs/pos_enc/RUN      one run, as the message at its end says
Runs that W&B has and runs that are being trained are left alone. `wandb sync` is not needed, and would send what the \
server has a second time.
exit status: 0 W&B has all of them, 1 something did not arrive (the same command goes on), 2 bad input
"""


def parser() -> Parser:
    """The options, each with its meaning."""

    made = Parser(prog="upload", description=DESCRIPTION, epilog=EPILOG)
    made.add_argument(
        "folders", nargs="*", metavar="FOLDER", help="a run's folder, a study's, or one of studies (default: runs)"
    )
    return made


def run(arguments: list[str]) -> int:
    """Exit status: 0 W&B has all, 1 something did not arrive, 2 bad input."""
    chosen = parser().parse_args(arguments)
    from gpt_lab import trackers
    from gpt_lab.dashboard import follow
    from gpt_lab.errors import ConfigError, DataError, LabError
    from gpt_lab.store import Run
    from gpt_lab.trackers.wandb_env import login

    paths = [path for folder in follow.check_targets(chosen.folders or ["runs"]) for path in follow.find(folder)]
    if not paths:
        raise DataError(f"no runs in {', '.join(chosen.folders or ['runs'])}")
    if login() is None:
        raise ConfigError(f"upload needs a login to W&B: run `{prefix()}wandb login`, or set WANDB_API_KEY")
    done = failed = 0
    for path in map(near, dict.fromkeys(paths)):
        try:
            one = Run.open(path)
            if not trackers.behind(one):
                continue
            if one.holder() is not None:
                print(f"{path}: is being trained: left alone")
                continue
            from gpt_lab.train.run_display import summary_rows  # costs seconds: it imports torch

            rows = summary_rows(one.summary) if one.state == "finished" else ()
            print(f"{path}: {len(one.metrics())} rows", flush=True)
            for message in trackers.upload(one, rows):
                print(f"  {message}", flush=True)
            arrived = (Run.open(path).record.get("wandb") or {}).get("uploaded")
        except LabError as error:  # the others may arrive all the same
            print(f"{path}: {error}")
            arrived = False
        done, failed = done + bool(arrived), failed + (not arrived)
    print(f"{done} uploaded, {len(paths) - done - failed} left as they are" + (f", {failed} not" if failed else ""))
    return 1 if failed else 0


main = entry(run, works=lambda argv: True)

if __name__ == "__main__":
    main()
