"""The atlas as Markdown and as one HTML file, and the runs that it rests on beside it."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

from gpt_lab.analysis.comparison import Row
from gpt_lab.atlas import option_tables
from gpt_lab.atlas.answers import Chapter, rows_by_verdict
from gpt_lab.console.invocation import prefix
from gpt_lab.store.atomic_files import write_atomic, writing

TITLE = "Atlas: which parts help a small model at a fixed budget"
VERDICTS = ("better", "real but small", "equivalent", "undecided", "worse")
READ = (
    (
        "Each row is one option against the default of its group, all else equal: parameters matched, and where the "
        "group moves the best learning rate (norm, residual, init, optim, objective) every option tuned alike."
    ),
    (
        "The effect is the mean difference over seeds with an interval that holds after stopping; better and worse "
        "mean that it lies wholly beyond what would matter, and verdicts are corrected within a group and a corpus."
    ),
    "These are short runs of small models: a row says what helps there, not what helps at scale.",
    "Tokens/s and memory are medians over runs that shared their machine with others: read them to a tenth.",
)


def markdown(chapters: Sequence[Chapter], folder: str = "") -> str:
    """The text of atlas.md.

    Args:
        folder: where atlas.html, figures/KIND.svg and CORPUS/KIND/runs.csv lie, as its links have it: `../there/`.
    """
    from gpt_lab.report.markdown import body, line

    call = prefix()
    commands = (
        f"{call}atlas                             # what is left of it",
        f"{call}atlas --report                    # run nothing: write it from the runs that are there",
        f"{call}atlas --only attention,position   # these groups",
        f"{call}atlas --only attention=gla        # one row again, on fresh seeds",
        f"{call}atlas --scale tiny budget.steps=1000",
    )
    parts = [
        f"# {TITLE}",
        _wrapped(overview(chapters)),
        _wrapped(READ),
        "\n".join(["```sh", *commands, "```"]),
        f"As one page, with tables that can be sorted: [atlas.html]({folder}atlas.html).",
    ]
    for chapter in chapters:
        table = option_tables.options(chapter)
        parts.append(f"## {line(table.title)}")
        if chapter.answers:
            parts.append(f"![{chapter.kind}]({folder}figures/{chapter.kind}.svg)")
        parts += [body(table), _wrapped(option_tables.conduct(chapter))]
        if chapter.answers:
            links = [f"[{corpus}]({folder}{corpus}/{chapter.kind}/runs.csv)" for corpus in chapter.answers]
            parts.append(f"Runs: {', '.join(links)}.")
    return "\n\n".join(part for part in parts if part) + "\n"


def _wrapped(sentences: Sequence[str]) -> str:
    """Items of a list, over as many lines as they need."""
    from gpt_lab.report.markdown import line

    return "\n".join(
        textwrap.fill(f"- {line(text)}", 120, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
        for text in sentences
    )


def overview(chapters: Sequence[Chapter]) -> list[str]:
    """One sentence a kind: what is better, worse or equal on every corpus, where they differ, what was not run."""
    said = []
    for chapter in chapters:
        by_verdict = rows_by_verdict(chapter.entries)
        groups = [
            f"{verdict}: {', '.join(entry.option for entry in by_verdict[verdict])}"
            for verdict in VERDICTS
            if verdict in by_verdict
        ]
        mixed = [entry for entry in chapter.entries if len({row.verdict for row in entry.rows.values()}) > 1]
        for words, said_here in (("the corpora disagree", True), ("by corpus", False)):
            if names := [_by_corpus(entry.option, entry.rows) for entry in mixed if entry.disagree is said_here]:
                groups.append(f"{words}: {', '.join(names)}")
        if alone := [entry for entry in chapter.entries if entry.again and not entry.rows]:
            groups.append(
                f"on fresh seeds alone: {', '.join(_by_corpus(entry.option, entry.again) for entry in alone)}"
            )
        if missing := [entry.option for entry in chapter.entries if not entry.rows and not entry.again]:
            groups.append(f"not run: {', '.join(missing)}")
        said.append(f"{chapter.kind} (against {chapter.baseline}): {'; '.join(groups)}")
    return said


def _by_corpus(option: str, rows: Mapping[str, Row]) -> str:
    """`kerple (shakespeare better, stdlib undecided)`."""
    return f"{option} ({', '.join(f'{corpus} {row.verdict}' for corpus, row in rows.items())})"


def write(chapters: Sequence[Chapter], folder: Path) -> list[Path]:
    """atlas.html, atlas.md and figures/KIND.svg into a folder, each whole or not there; the page's path first.

    Raises:
        LabError: the folder cannot be written.
    """
    from gpt_lab.atlas import forest
    from gpt_lab.report import page
    from gpt_lab.report.figures import base
    from gpt_lab.report.inline import inline

    with writing(folder):
        (folder / "figures").mkdir(parents=True, exist_ok=True)
    figures = {}
    with base.look():
        for chapter in chapters:
            drawing = forest.draw(chapter)
            if drawing is not None:
                svg, png = base.write(drawing, folder / "figures")
                png.unlink()
                figures[chapter.kind] = (drawing, inline(svg.read_text("utf-8"), drawing.name))
    style, script = page.source("report.css"), page.source("report.js")
    html = (
        page.templates()
        .get_template("atlas.html.j2")
        .render(
            title=TITLE,
            read=READ,
            command=f"{prefix()}atlas --only attention=gla",
            overview=overview(chapters),
            chapters=[(c, option_tables.options(c), option_tables.conduct(c), figures.get(c.kind)) for c in chapters],
            style=style,
            script=script,
            policy=page.policy(style, script),
        )
    )
    paths = [folder / "atlas.html", folder / "atlas.md"]
    write_atomic(paths[0], html.encode("utf-8", "replace"))
    write_atomic(paths[1], markdown(chapters).encode("utf-8", "replace"))
    return paths
