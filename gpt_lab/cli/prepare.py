"""`prepare [key=value ...]`: builds a config's tokenizer and token shards ahead of training."""

from __future__ import annotations

from gpt_lab.cli.common.console_script import entry
from gpt_lab.console.lines import show_help

HELP = """usage: prepare [SETTING ...]

Builds the tokenizer and the token shards that `train` with the same settings would use:

  prepare data=text data.path=corpus/ tokenizer=bpe tokenizer.vocab_size=4096

Settings are those of `train`; only data, tokenizer and scale.context matter here."""


def run(argv: list[str]) -> int:
    """Exit status: 0 built or already there, 2 bad input."""
    if "--help" in argv or "-h" in argv:
        show_help(HELP)
        return 0
    from gpt_lab.config import composition

    cfg = composition.compose(argv)

    from gpt_lab.console.terminal import Terminal
    from gpt_lab.data.prepare import prepare

    prepare(cfg, Terminal())
    return 0


main = entry(run, works=lambda argv: True)

if __name__ == "__main__":
    main()
