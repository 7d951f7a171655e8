"""`tokenizers [NAMES] [key=value ...]`: what tokenizers make of corpora: compression, even use, speed."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence

from gpt_lab import registry
from gpt_lab.cli.common.console_script import entry
from gpt_lab.cli.common.strict_parser import Parser, output
from gpt_lab.errors import ConfigError, quoted, unknown

NAMES = ("byte", "char", "bpe", "unigram", "wordpiece")
"""Those that need neither a file nor a network, each kind once."""
CORPORA = ("shakespeare", "stdlib")
"""Those that every machine has."""
DESCRIPTION = """\
Compare tokenizers on corpora: bytes per token of held-out text, Rényi efficiency (Zouhar et al. 2023, alpha 2.5) and \
unused share of the vocabulary on the training text, megabytes encoded in a second, and whether text is lost. Those \
that are fitted learn from the training text; what `train` would use is built, and kept for it.
"""
EXAMPLES = """\
examples:
  tokenizers                                 byte, char, bpe, unigram, wordpiece
  tokenizers bpe tokenizer.vocab_size=4096   one of them, at another size
  tokenizers bpe data=text data.path=books/  on texts of one's own
  tokenizers bpe data=shakespeare,stdlib --json
"""


def run(argv: list[str]) -> int:
    """Exit status: 0 shown, 2 bad input."""
    parser = Parser(prog="tokenizers", description=DESCRIPTION, epilog=EXAMPLES)
    parser.add_argument("words", nargs="*", metavar="NAME | key=value", help="tokenizers; settings of them, of data")
    parser.add_argument("--json", action="store_true", help="the same as JSON")
    chosen = parser.parse_intermixed_args(argv)
    pairs = _settings([word for word in chosen.words if "=" not in word], [w for w in chosen.words if "=" in w])

    from gpt_lab.config import composition
    from gpt_lab.console.terminal import Terminal
    from gpt_lab.data.corpus import Corpus
    from gpt_lab.data.prepare import progress_bar
    from gpt_lab.data.tokenizers import efficiency

    configs = [composition.compose(words) for words in pairs]
    rows = []
    with progress_bar(Terminal(stderr=True)) as progress:
        for cfg in configs:
            source = registry.build("data", cfg.data)
            if not isinstance(source, Corpus):
                raise ConfigError(f"data={cfg.data['name']} has no text of its own: name a corpus, such as stdlib")
            rows.append(efficiency.measure(source, cfg.tokenizer, progress))
    if chosen.json:
        print(json.dumps([dataclasses.asdict(row) for row in rows], indent=2))
    else:
        output(lambda console: efficiency.show(rows, console))
    return 0


def _settings(names: Sequence[str], given: Sequence[str]) -> list[list[str]]:
    """The settings of each tokenizer on each corpus; an option goes to all that have it.

    Raises:
        ConfigError: an unknown name, or an option that none has.
    """
    tokenizers, corpora, options = list(names or NAMES), list(CORPORA), dict[str, str]()
    for word in given:
        key, _, value = word.partition("=")
        if key == "data":
            corpora = value.split(",")
        elif key.startswith(("data.", "tokenizer.")):
            options[key] = word
        else:
            raise ConfigError(
                f"tokenizers takes names, data=..., data.KEY=... and tokenizer.KEY=..., not {quoted(word)}"
            )
    for kind, chosen in (("tokenizer", tokenizers), ("data", corpora)):
        for name in chosen:
            if name not in registry.index()[kind]:
                raise ConfigError(unknown(kind, name, registry.index()[kind]))
    taken = {f"tokenizer.{key}" for name in tokenizers for key in registry.get("tokenizer", name).options}
    taken |= {f"data.{key}" for name in corpora for key in registry.get("data", name).options}
    for key, word in options.items():
        if key not in taken:
            raise ConfigError(f"{quoted(word)}: none of {', '.join([*tokenizers, *corpora])} has it")
    return [
        [f"tokenizer={name}", f"data={corpus}", *(word for key, word in options.items() if _has(key, name, corpus))]
        for corpus in corpora
        for name in tokenizers
    ]


def _has(key: str, tokenizer: str, corpus: str) -> bool:
    kind, _, option = key.partition(".")
    return option.partition(".")[0] in registry.get(kind, tokenizer if kind == "tokenizer" else corpus).options


main = entry(run, works=lambda argv: True)

if __name__ == "__main__":
    main()
