"""The pages that a user reads, their commands, and their marked blocks."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
PAGES = ("README.md", "CONTRIBUTING.md", *(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md"))))


def text(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def commands(page: str) -> list[str]:
    """The lines of a page's `sh` blocks, without comments."""
    blocks = re.findall(r"^```sh\n(.*?)^```", text(page), re.DOTALL | re.MULTILINE)
    lines = [line for block in blocks for line in block.splitlines()]
    return [re.sub(r"\s+#.*$", "", line) for line in lines if line.strip() and not line.startswith("#")]


def every_command() -> list[str]:
    """Each distinct command, in the order of the pages."""
    return list(dict.fromkeys(line for page in PAGES for line in commands(page)))


def block(name: str) -> str:
    """What stands between `<!-- name -->` and `<!-- /name -->`, on the one page that has these."""
    found = [
        m[1] for page in PAGES for m in re.finditer(rf"<!-- {name} -->\n(.*?)<!-- /{name} -->", text(page), re.DOTALL)
    ]
    assert len(found) == 1, f"{name} stands on {len(found)} pages"
    return found[0]


def shown_file(name: str) -> str:
    """The file that stands under `<!-- sweep: name -->`, on the one page that has it."""
    pattern = rf"<!-- sweep: {re.escape(name)} -->\n```yaml\n(.*?)^```"
    found = [m[1] for page in PAGES for m in re.finditer(pattern, text(page), re.DOTALL | re.MULTILINE)]
    assert len(found) == 1, f"{name} stands on {len(found)} pages"
    return found[0]


def prose(page: str) -> str:
    return re.sub(r"^```.*?^```", "", text(page), flags=re.DOTALL | re.MULTILINE)
