"""Catalogue of components: parts from the registry's index, presets from conf/. Imports no part."""

from __future__ import annotations

import re
import textwrap
import typing
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpt_lab import options, project, registry, yamlfile
from gpt_lab.config import certificates, sections
from gpt_lab.config.certificates import Certificate
from gpt_lab.console.invocation import prefix
from gpt_lab.console.lines import hang
from gpt_lab.devices import gpu_runs
from gpt_lab.errors import ConfigError, unknown

if TYPE_CHECKING:
    from rich.console import Console

KINDS = {
    "attention": "how tokens exchange information",
    "position": "how the model knows the order of tokens",
    "norm": "normalization of activations",
    "mlp": "the feed-forward half of a block",
    "residual": "how a block adds its two halves to the residual stream",
    "init": "initial weights, and the scaling of learning rates that goes with them",
    "scale": "how large the model is",
    "model": "presets: known models as a choice of the groups here",
    "optim": "optimizer",
    "schedule": "learning rate over the run",
    "precision": "number formats of training",
    "kernel": "implementation of attention",
    "data": "corpus or task",
    "tokenizer": "text to tokens",
    "objective": "training loss",
    "parallel": "how devices share a run",
    "tracker": "where metrics are mirrored to",
}
NOTHING = Certificate()
PRESETS = ("scale", "model")
"""Groups that are YAML files in conf/ and no classes."""


@dataclass(frozen=True)
class PartOption:
    """One option of a part."""

    default: Any
    allowed: str
    meaning: str = ""

    @property
    def required(self) -> bool:
        return self.default is registry.REQUIRED

    @property
    def shown(self) -> str:
        return "???" if self.required else literal(self.default)


@dataclass(frozen=True)
class CatalogueEntry:
    """One name of one kind: what it says of itself, what it takes, where it is; on which GPUs it has run."""

    kind: str
    name: str
    summary: str
    doc: str
    source: Path
    line: int
    paper: str = ""
    choices: Mapping[str, PartOption] = field(default_factory=dict)
    certificate: Certificate = NOTHING
    on_gpu: str = ""

    @property
    def usage(self) -> str:
        """A command that selects it, with its first option spelled out."""
        keys = [f"{self.kind}.{key}={choice.shown}" for key, choice in self.choices.items() if not choice.required][:1]
        asked = [f"{self.kind}.{key}=..." for key, choice in self.choices.items() if choice.required]
        return " ".join(
            [f"{prefix()}train", f"{self.kind}={self.name}", *asked, *([] if self.kind == "model" else keys)]
        )


Catalogue = dict[str, dict[str, CatalogueEntry]]


def catalogue(kind: str | None = None, name: str | None = None) -> Catalogue:
    """All entries, those of one kind, or one.

    Raises:
        ConfigError: no such kind or name; the line offers the closest.
    """
    if kind == "experiment":
        raise ConfigError(
            f"an experiment is a file of experiments/, not a part: `{prefix()}train +experiment=NAME` takes it"
        )
    if kind is not None and kind not in KINDS:
        raise ConfigError(unknown("kind of part", kind, KINDS))
    found = {one: _presets(one) if one in PRESETS else _parts(one) for one in ([kind] if kind else KINDS)}
    if kind is not None and name is not None:
        if name not in found[kind]:
            raise ConfigError(unknown(kind, name, found[kind]))
        return {kind: {name: found[kind][name]}}
    return found


def to_dict(found: Catalogue) -> dict[str, Any]:
    """The catalogue as plain values; a required option has no `default`."""
    return {kind: {name: _entry_dict(entry) for name, entry in entries.items()} for kind, entries in found.items()}


def literal(value: Any) -> str:
    """A value as one writes it on the command line."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return f"[{','.join(literal(v) for v in value)}]"
    if isinstance(value, Mapping):
        return f"{{{','.join(f'{k}:{literal(v)}' for k, v in value.items())}}}"
    if value == "":
        return "''"
    return repr(value) if isinstance(value, str) and not re.fullmatch(r"[\w./:-]+", value) else str(value)


def show(found: Catalogue, console: Console) -> None:
    """Kind by kind: name, summary, keys with defaults, paper."""
    from rich.text import Text

    for kind, entries in found.items():
        console.print(Text.assemble((kind, "bold"), f": {KINDS[kind]}"))
        wide = max(12, *map(len, entries))
        for entry in entries.values():
            keys = "  ".join(f"{key}={choice.shown}" for key, choice in entry.choices.items())
            dim = ((text, "dim") for text in (entry.paper, entry.certificate.brief, entry.on_gpu))
            shown = ((entry.summary, ""), (keys, "green"), *dim)
            told = [(text, style) for text, style in shown if text]
            for number, (text, style) in enumerate(told or [("", "")]):
                name = "" if number else entry.name
                first, *rest = hang(f"  {name:<{wide}}  ", text, console.width)
                line = Text.assemble((first[: 4 + wide], "cyan"), (first[4 + wide :], style))
                for part in (line, *(Text(more, style) for more in rest)):
                    console.print(part, soft_wrap=True)
        if not entries:
            console.print("  (none)")
        console.print()
    for hint in (f"Select:  {prefix()}train KIND=NAME KIND.KEY=VALUE", f"Explain: {prefix()}components KIND NAME"):
        console.print(hint, soft_wrap=True)


def show_one(entry: CatalogueEntry, console: Console) -> None:
    """The whole docstring, every option with default, type and meaning, the source, how to select it."""
    from rich.box import SIMPLE
    from rich.table import Table
    from rich.text import Text

    console.print(Text.assemble((f"{entry.kind}={entry.name}", "bold cyan")))
    console.print(Text(reflow(_prose(entry), console.width)), soft_wrap=True)
    console.print()
    if entry.choices:
        table = Table(box=SIMPLE, show_edge=False, pad_edge=False)
        table.add_column("key", style="green", no_wrap=True)
        table.add_column("default", no_wrap=True)
        table.add_column("allowed", overflow="fold")
        table.add_column("meaning", overflow="fold")
        for key, choice in entry.choices.items():
            dotted = key if entry.kind == "model" else f"{entry.kind}.{key}"
            default = "required" if choice.required else choice.shown
            table.add_row(*(Text(cell) for cell in (dotted, default, choice.allowed, choice.meaning)))
        console.print(table)
    else:
        console.print("It takes no options.")
    console.print()
    if entry.on_gpu:
        console.print(Text(entry.on_gpu), soft_wrap=True)
    if entry.certificate.cost:
        console.print(Text(f"Cost:   {entry.certificate.cost}"), soft_wrap=True)
    for parity in entry.certificate.parity:
        console.print(Text(f"Parity: {parity}"), soft_wrap=True)
    console.print(Text(f"Source: {project.near(entry.source)}:{entry.line}"), soft_wrap=True)
    console.print(Text(f"Select: {entry.usage}"), soft_wrap=True)


def _prose(entry: CatalogueEntry) -> str:
    """The docstring without the lines on options, which the table shows."""
    doc = entry.doc
    for item in filter(None, (registry.explained(entry.doc, key) for key in entry.choices)):
        doc = doc.replace(item, "")
    return doc


def _entry_dict(entry: CatalogueEntry) -> dict[str, Any]:
    keys = {
        key: ({} if choice.required else {"default": choice.default})
        | {"allowed": choice.allowed, "required": choice.required, "meaning": choice.meaning}
        for key, choice in entry.choices.items()
    }
    return {
        "summary": entry.summary,
        "paper": entry.paper,
        "doc": entry.doc,
        "source": str(entry.source),
        "line": entry.line,
        "usage": entry.usage,
        "certificate": asdict(entry.certificate),
        "on_gpu": entry.on_gpu,
        "options": keys,
    }


def _parts(kind: str) -> dict[str, CatalogueEntry]:
    measured = certificates.read()
    own = [name for name, part in registry.index()[kind].items() if part.module.startswith("gpt_lab.")]
    known = {name: measured[kind, name] for name in own if (kind, name) in measured}
    return {name: _part(part, known.get(name, NOTHING)) for name, part in registry.index()[kind].items()}


def _part(part: registry.Part, certificate: Certificate) -> CatalogueEntry:
    above = part.path.read_text(encoding="utf-8").partition(f"class {part.qualname}")[0]
    choices = {
        key: PartOption(option.default, options.describe(option.annotation), meaning(part.doc, key))
        for key, option in part.options.items()
    }
    line = above.count("\n") + 1
    own = part.module.startswith("gpt_lab.")
    return CatalogueEntry(
        part.kind,
        part.name,
        part.summary,
        part.doc,
        part.path,
        line,
        paper(part.doc),
        choices,
        certificate,
        gpu_runs.mark(part.kind, part.name) if own else "",
    )


def paper(doc: str) -> str:
    """What the docstring's `Paper:` or `Reference:` paragraph says, on one line."""
    found = re.search(r"^(?:Papers?|References?): *(.+(?:\n(?![ ]*\w+: |\s*\n).+)*)", doc, re.MULTILINE)
    return " ".join(found[1].split()) if found else ""


def meaning(doc: str, key: str) -> str:
    """What the docstring says after `key:`, its continuation lines (deeper indented) included."""
    return " ".join(registry.explained(doc, key).partition(":")[2].split())


def reflow(doc: str, width: int) -> str:
    """A docstring's paragraphs and `key: meaning` items at another width; no word, such as an address, is split."""
    blocks = []
    for block in re.split(r"\n\s*\n", doc.strip()):
        lines: list[str] = []
        for line in block.splitlines():
            if lines and not re.match(r" *`{0,2}[\w.]+`{0,2}: ", line):
                lines[-1] += f" {line.strip()}"
            else:
                lines.append(line.strip())
        wrap = textwrap.TextWrapper(
            width, subsequent_indent="    " if len(lines) > 1 else "", break_long_words=False, break_on_hyphens=False
        )
        blocks.append("\n".join(wrap.fill(line) for line in lines))
    return "\n\n".join(blocks)


def _presets(kind: str) -> dict[str, CatalogueEntry]:
    found = {}
    for path in project.files("conf", kind).values():
        values = yamlfile.read(path)
        text = path.read_text(encoding="utf-8")
        comments = [line.lstrip("# ") for line in text.splitlines() if re.match(r"#(?! *@)", line)]
        doc = "\n".join(comments)
        summary = comments[0] if comments else ""
        found[path.stem] = CatalogueEntry(
            kind, path.stem, summary, doc, path, 1, paper(doc), _preset_choices(kind, values)
        )
    return found


def _preset_choices(kind: str, values: Mapping[str, Any]) -> dict[str, PartOption]:
    if kind == "scale":
        hints = typing.get_type_hints(sections.Scale, include_extras=True)
        return {k: PartOption(v, options.describe(hints.get(k, Any))) for k, v in values.items() if k != "name"}
    picks: dict[str, Any] = {}
    for item in values.get("defaults", []):
        if isinstance(item, Mapping):
            picks |= {key.removeprefix("override ").lstrip("/"): name for key, name in item.items()}
    plain = {key: value for key, value in values.items() if key != "defaults"}
    return {key: PartOption(value, "set by the preset") for key, value in (picks | _flat("", plain)).items()}


def _flat(prefix: str, tree: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= _flat(f"{prefix}{key}.", value) if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat
