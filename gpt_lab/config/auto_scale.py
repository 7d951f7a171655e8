"""`scale=auto`: what follows from scale.depth by published laws, set once in a composed tree, shown with its source.

A setting that somebody stated stays, and the laws that need it go on from it. The laws read nothing but settings, so
that a run's config tells again what they say.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gpt_lab import options, project, registry, yamlfile
from gpt_lab.config import scaling_laws as laws
from gpt_lab.config import setting_names

if TYPE_CHECKING:
    from rich.console import Console

    from gpt_lab.config.schema import RunConfig

NAME = "auto"
TUNED_AT = 128
"""Width of scale=tiny, at which the optimizers' default learning rates are (and base_width of init=mup)."""
ADAM = ("adam", "adamw")
"""Optimizers whose rate for matrices goes by the inverse of their input's width in muP's table."""
LONG = 10_000_000
"""Numbers from here on are shown in powers of ten."""
EIGHT = 8
"""What vocabularies and rows are rounded to a multiple of."""
CHINCHILLA, VOCABULARIES, POWER_LINES, MUP = "2203.15556", "2407.13623", "2505.13738", "2203.03466"
FITTED = ((CHINCHILLA, "N", 70e6, 16e9), (VOCABULARIES, "M", 33e6, 3e9), (POWER_LINES, "N", 111e6, 3.3e9))
"""Each law's source, and the smallest and the largest model, in N or M, that it was fitted on."""


@dataclass(frozen=True)
class LawRow:
    """One setting.

    Fields:
        value: what the run has. says: what the law says, a budget in tokens; None: no law speaks of it here.
        law: the formula, or why there is none. source: arXiv number, and where in it.
    """

    key: str
    value: Any
    says: int | float | None
    law: str
    source: str = ""

    @property
    def given(self) -> bool:
        """Whether somebody stated another value than the law's."""
        return self.says is not None and self.value != self.says

    @property
    def shown(self) -> str:
        """The formula, or what it says where it does not count."""
        tokens = " tokens" if self.key.startswith("budget.") else ""
        return f"given (law: {_number(self.says)}{tokens})" if self.given else self.law


def apply(tree: dict[str, Any], given: Mapping[str, Any]) -> None:
    """Sets in a composed tree what `scale=auto` leaves to the laws; other trees stay as they are.

    Args:
        given: the command line's keys and values; what its experiment and preset state, and the project's own
            config.yaml, stays as well.

    Raises:
        ConfigError: a setting that the laws need is of the wrong type or out of range.
    """
    if tree["scale"].get("name") != NAME:
        return
    own = project.own_config()
    stated = {*given, *_leaves({} if own is None else own[1])}
    for key, files in (("experiment", project.files("experiments")), ("model", project.files("conf", "model"))):
        if given.get(key) in files:
            stated |= set(_leaves(yamlfile.read(files[given[key]])))
    _walk(tree, lambda key: key in stated)


def rows(cfg: RunConfig) -> list[LawRow]:
    """What the laws say of a run's settings, and what it has; [] if its scale is another."""
    return _walk(cfg.to_dict(), lambda key: True) if cfg.scale.name == NAME else []


def recorded(cfg: RunConfig) -> list[dict[str, Any]]:
    """The rows as run.json keeps them."""
    return [dataclasses.asdict(row) | {"given": row.given} for row in rows(cfg)]


def show(cfg: RunConfig, console: Console) -> None:
    """The table of laws, and what its letters mean; nothing where the scale is another."""
    from rich.box import SIMPLE
    from rich.table import Table
    from rich.text import Text

    found = rows(cfg)
    if not found:
        return
    title = f"scale=auto scale.depth={cfg.scale.depth}"
    table = Table(box=SIMPLE, show_edge=False, padding=(0, 1, 0, 0), title=title, title_justify="left")
    for heading in ("setting", "value", "law", "source"):
        table.add_column(heading, justify="right" if heading == "value" else "left", no_wrap=True)
    for row in found:
        table.add_row(*(Text(cell) for cell in (row.key, _number(row.value), row.shown, row.source)))
    console.print(table)
    for line in _letters(cfg):
        console.print(Text(line))


def _walk(tree: dict[str, Any], stated: Callable[[str], bool]) -> list[LawRow]:
    """Each setting in the order in which they follow from each other; sets those that nobody stated."""
    found: list[LawRow] = []

    def row(key: str, says: int | float | None, law: str, source: str = "") -> Any:
        section, _, name = key.partition(".")
        if says is not None and (not stated(key) or tree[section].get(name) is None):
            tree[section][name] = says
        found.append(LawRow(key, _checked(tree, key), says, law, source if says is not None else ""))
        return found[-1].value

    depth = _checked(tree, "scale.depth")
    width = row("scale.width", laws.width(depth), f"{laws.PER_LAYER} depth", f"{CHINCHILLA} A9")
    row("scale.heads", laws.heads(width), f"width / {laws.PER_LAYER}", f"{CHINCHILLA} A9")
    matrices = laws.matrices(depth, width)
    if "vocab_size" in registry.get("tokenizer", tree["tokenizer"]["name"]).options and _is_text(tree):
        says = _multiple(laws.vocabulary(matrices, width))
        row("tokenizer.vocab_size", says, "3.1e6 (M/33e6)^0.835 / width", f"{VOCABULARIES} T1")
    parameters = _parameters(tree)
    budget = tree["budget"]
    if not any(stated(f"budget.{name}") for name in budget):
        budget.update(dict.fromkeys(budget), tokens=laws.tokens(parameters))
    kind = next((name for name, value in budget.items() if value is not None), "tokens")
    amount, law = _checked(tree, f"budget.{kind}"), f"{laws.TOKENS_PER_PARAMETER} N"
    found.append(LawRow(f"budget.{kind}", amount, laws.tokens(parameters), law, f"{CHINCHILLA} T3"))
    horizon = _horizon(kind, amount, parameters)
    best = laws.batch_of_steps(amount) if kind == "steps" else None if horizon is None else laws.batch(horizon)
    context = _checked(tree, "scale.context")
    whole = None if best is None else context * _rows(best / context)
    law = f"no law: budget.{kind} has no D" if whole is None else "2048 x 0.0306 D^0.383"
    batch = row("batch.tokens", whole, law, f"{POWER_LINES} F1")
    _optimizer(tree, row, width, batch, _horizon(kind, amount, parameters, batch), parameters)
    return found


def _horizon(kind: str, amount: float, parameters: float, batch: int | None = None) -> float | None:
    """D of a budget; None: it does not tell. A token costs 6 N FLOPs."""
    if kind == "steps":
        return None if batch is None else amount * batch
    return {"tokens": amount, "flops": amount / (6 * parameters)}.get(kind)


def _optimizer(
    tree: dict[str, Any], row: Callable[..., Any], width: int, batch: int, tokens: float | None, parameters: float
) -> None:
    name = tree["optim"]["name"]
    taken = registry.get("optim", name).options
    if "lr" not in taken:
        return
    usual = taken["lr"].default
    scaled = tree["init"]["name"] == "mup"
    if name not in ADAM:
        rate = row("optim.lr", None, f"no law for optim={name}")
    elif scaled:
        rate = row("optim.lr", usual, "as tuned; init=mup divides it", f"{MUP} T8")
    else:
        says = _digits(laws.learning_rate(usual, TUNED_AT, width))
        rate = row("optim.lr", says, f"{usual:g} x {TUNED_AT} / width", f"{MUP} T8")
    if "weight_decay" not in taken:
        return
    if name != "adamw" or tokens is None:
        row("optim.weight_decay", None, f"no law for optim={name}" if name != "adamw" else "no law: D is not known")
        return
    if scaled:
        rate = laws.learning_rate(rate, _checked(tree, "init.base_width"), width)
    says = _digits(laws.weight_decay(batch, rate, tokens, parameters))
    row("optim.weight_decay", says, "batch / (lr D tau)", f"{POWER_LINES} F1")


def _letters(cfg: RunConfig) -> list[str]:
    """What M, N and D are here, and which laws go beyond what they were fitted on."""
    tree = cfg.to_dict()
    matrices, parameters = laws.matrices(cfg.scale.depth, cfg.scale.width), _parameters(tree)
    embeddings = "embedding" if cfg.model.tied else "embedding and head"
    beside = f"with {embeddings}" if parameters > matrices else "the vocabulary is not known yet"
    size = {"M": matrices, "N": parameters}
    beyond = [
        f"{low / 1e6:,.0f} million to {high / 1e9:g} billion ({source})"
        for source, letter, low, high in FITTED
        if not low <= size[letter] <= high
    ]
    letters = (
        f"M = {matrices:,} parameters of the layers' matrices, 12 depth width^2; N = {parameters:,}, {beside}; "
        "D: training tokens; tau = 1.084 (D / N)^-0.527. Sources: arXiv number, table (T, A) or figure (F)."
    )
    fitted = f"Extrapolated: the laws were fitted on models of {', '.join(beyond)} parameters."
    return [letters, fitted] if beyond else [letters]


def _parameters(tree: Mapping[str, Any]) -> int:
    """N as far as settings tell it: the matrices, and the embedding (and head) where the vocabulary is a setting."""
    depth, width = _checked(tree, "scale.depth"), _checked(tree, "scale.width")
    vocabulary = tree["data"].get("symbols") if not _is_text(tree) else tree["tokenizer"].get("vocab_size")
    rows = vocabulary if options.is_whole(vocabulary) else 0
    return laws.matrices(depth, width) + rows * width * (1 if tree["model"]["tied"] else 2)


def _is_text(tree: Mapping[str, Any]) -> bool:
    return bool(tree["data"]["name"] != "synthetic")


def _checked(tree: Mapping[str, Any], key: str) -> Any:
    """A setting's value, which can be of any type so far."""
    section, _, name = key.partition(".")
    value, hints = tree[section].get(name), setting_names.settings().get(key, ())
    taken = registry.get(section, tree[section]["name"]).options if section in registry.KINDS else {}
    return options.check(key, value, taken[name].annotation if name in taken else hints[0])


def _leaves(tree: Mapping[str, Any], prefix: str = "") -> list[str]:
    found: list[str] = []
    for key, value in tree.items():
        found += _leaves(value, f"{prefix}{key}.") if isinstance(value, Mapping) else [f"{prefix}{key}"]
    return found


def _multiple(value: float) -> int:
    return EIGHT * max(1, round(value / EIGHT))


def _rows(value: float) -> int:
    """Whole sequences; where there are many, a number that micro-batches divide."""
    return _multiple(value) if value >= EIGHT else max(1, round(value))


def _digits(value: float) -> float:
    return float(f"{value:.3g}")


def _number(value: Any) -> str:
    if not options.is_number(value):
        return str(value)
    return f"{value:,.0f}" if value < LONG and float(value).is_integer() else f"{value:.4g}"
