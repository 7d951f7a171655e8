"""A conversation as one HTML file that needs nothing else."""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path

from gpt_lab.chat.session import Turn
from gpt_lab.errors import ConfigError, quoted
from gpt_lab.store.atomic_files import Unwritable, write_atomic

STYLE = """
:root { color-scheme: light dark; }
body { margin: 0 auto; padding: 12px; max-width: 1400px; font: 15px/1.5 system-ui, sans-serif; }
.turn { border-top: 1px solid #888; padding: 8px 0; }
.answers { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(320px, 100%), 1fr)); gap: 12px; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; margin: 4px 0; font: 14px/1.5 ui-monospace, monospace; }
.given, .facts { opacity: .7; }
"""


def page(turns: Sequence[Turn], chat: bool) -> str:
    """The text of the file; nothing that anybody said is markup."""
    parts = []
    for turn in turns:
        settings = turn.settings
        facts = f"seed {settings.seed}, temperature {settings.temperature:g}"
        if turn.parted is not None:
            facts += f"; they part at token {turn.parted + 1}"
        answers = []
        for said in turn.answers:
            given = "" if chat else f'<span class="given">{html.escape(turn.prompt)}</span>'
            answers.append(
                f"<div><strong>{html.escape(said.model)}</strong> <span class=facts>{said.speed}</span>"
                f"<pre>{given}{html.escape(said.text)}</pre></div>"
            )
        asked = f"<pre>{html.escape(turn.prompt)}</pre>" if chat else ""
        parts.append(
            f'<section class="turn"><div class="facts">{facts}</div>{asked}'
            f'<div class="answers">{"".join(answers)}</div></section>'
        )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><title>gpt_lab conversation</title>'
        f"<style>{STYLE}</style></head><body>\n{chr(10).join(parts)}\n</body></html>\n"
    )


def export(path: Path, turns: Sequence[Turn], chat: bool) -> None:
    """Writes the file, whole or not at all.

    Raises:
        ConfigError: nothing was said, the name does not end in .html, or its folder cannot be written.
    """
    if not turns:
        raise ConfigError("nothing was said yet: /export writes what was")
    if "\0" in str(path) or path.suffix.lower() not in (".html", ".htm"):
        raise ConfigError(f"{quoted(str(path))} is no file name that ends in .html")
    try:
        write_atomic(path, page(turns, chat).encode())
    except Unwritable as error:
        raise ConfigError(f"cannot write {path}: {error.reason} choose another file") from None
