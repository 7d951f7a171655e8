"""`train [key=value ...]`: one run, from config to summary."""

from __future__ import annotations

import shlex
import sys

from gpt_lab.cli.common.console_script import entry
from gpt_lab.console.lines import show_help

CFG_WIDTH = 80
HELP = """usage: train [SETTING ...] [--cfg]

Trains one model. Settings are key=value; groups swap a part, dotted keys set its options:

  train model=gqa_rope optim=muon              presets and parts
  train attention=gqa attention.kv_heads=1     a part's option
  train scale=small budget.tokens=2e7 seed=1   size, budget, seed
  train scale=auto scale.depth=12              sizes and rates by published laws
  train +experiment=NAME                       a file of experiments/
  train resume_from=RUN position=yarn          a run's weights and settings, with another position encoding
  train model_from=FOLDER data=text            weights of a Hugging Face folder

  --cfg         print the resolved config and leave
  --help        this text
  eval "$(train -sc install=bash)"   completes groups, options and keys (fish and zsh too)
  `components` lists every part; `components attention gqa` explains one.

groups (option in use by default first):
"""


def help_text() -> str:
    """The usage with every group and its options, read from conf/ and the registry."""
    from gpt_lab.config import composition
    from gpt_lab.config.setting_names import GROUPS, SECTIONS, choices

    tree = composition.compose_tree([])
    lines = []
    for group in GROUPS:
        names = choices(group)
        default = tree.get(group, {}).get("name")
        names.sort(key=lambda name: name != default)
        if names:
            lines.append(f"  {group:<10} {' '.join(names)}")
    lines.append("\nkeys:")
    for key in (
        "seed",
        "replica",
        "study",
        "runs_dir",
        "device",
        "compile",
        "gpus_per_trial",
        "chunked_loss",
        "force",
        "match",
        "match_to",
        "resume_from",
        "model_from",
    ):
        lines.append(f"  {key}={_shown(tree[key])}")
    for section in SECTIONS:
        if section != "scale":
            lines.append("  " + " ".join(f"{section}.{k}={_shown(v)}" for k, v in tree[section].items()))
    return HELP + "\n".join(lines)


def _shown(value: object) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return shlex.quote(str(value))


def _complete() -> None:
    """Hydra's own completion, over the same groups."""
    import hydra

    from gpt_lab import project
    from gpt_lab.config import conf_source

    conf_source.install()
    hydra.main(version_base="1.3", config_path=str(project.shipped("conf")), config_name="config")(lambda cfg: None)()


def run(argv: list[str]) -> int:
    """Exit status: 0 finished, 2 bad input, 1 diverged or failed, 130 or 143 stopped by a signal."""
    from gpt_lab.train.begin_from import command_line

    if "--help" in argv or "-h" in argv:
        show_help(help_text())
        return 0
    if any(text in ("-sc", "--shell-completion") for text in argv):
        _complete()
        return 0
    overrides = [text for text in argv if text != "--cfg"]
    cfg = command_line.compose(overrides)
    if "--cfg" in argv:
        from gpt_lab import yamlfile
        from gpt_lab.config import auto_scale
        from gpt_lab.console.terminal import pipe_width, plain
        from gpt_lab.cost import memory_plan

        for line in plain(lambda console: auto_scale.show(cfg, console), pipe_width(CFG_WIDTH) - 2):
            print(f"# {line}".rstrip())  # what follows is read as YAML
        for line in memory_plan.lines(cfg):
            print(f"# {line}")
        print(yamlfile.text(cfg.to_dict()), end="")
        return 0
    from gpt_lab.console.terminal import Terminal
    from gpt_lab.train.parallel import launch
    from gpt_lab.train.parallel.ranks import Ranks
    from gpt_lab.train.start import run_training

    def train(ranks: Ranks) -> int:
        return run_training(cfg, Terminal(file=sys.stdout), shlex.join(["train", *argv]), ranks=ranks).exit_code

    return launch.launched(cfg, argv, train)


main = entry(run, works=lambda argv: not {"--cfg", "-sc", "--shell-completion"} & {*argv})

if __name__ == "__main__":
    main()
