"""Verification of a claim: runs some of its cells again and prints whether the scores are reproduced."""

from __future__ import annotations

import secrets
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from gpt_lab.claims import code, selection
from gpt_lab.claims.folder import Claim
from gpt_lab.claims.rerun import Interrupted, Prepared, RerunOutcome
from gpt_lab.claims.selection import ClaimCell
from gpt_lab.console import lines
from gpt_lab.console.terminal import Terminal

VERIFIED, NOT_VERIFIED = 0, 1


def verify(
    claim: Claim,
    cells: Sequence[ClaimCell],
    console: Console,
    tolerance: float | None = None,
    runs_dir: Path | None = None,
) -> int:
    """Runs the cells again, one after the other, and prints what each came to; progress goes to standard error.

    Every cell is prepared before the first is trained, so that what cannot be run is said at once.

    Args:
        tolerance: largest difference of the metric that counts as none; None: as rerun says.
        runs_dir: where the new runs stay; None: they are thrown away.

    Returns:
        0 verified, 1 not, 128 + the number of a signal that ended it.

    Raises:
        ConfigError, DataError: a cell cannot be run here. LabError: its run cannot be written.
    """
    say = _Says(console)
    _heading(claim, say)
    when = time.strftime("%Y%m%d-%H%M%S", time.gmtime())
    study = f"verify-{claim.name}-{when}-{secrets.token_hex(3)}"  # never an old run
    with _store(runs_dir) as store:
        ready = [Prepared(claim, cell, store, study, tolerance) for cell in cells]
        for sentence in dict.fromkeys(one.code()[1] for one in ready):
            if sentence:
                say(f"code: {sentence}")
        progress = Terminal(file=sys.stderr, quiet=runs_dir is None)  # its last lines name a folder that will be gone
        good = 0
        for number, one in enumerate(ready, 1):
            lines.print_lines(f"run {number} of {len(ready)}: {selection.label(claim, one.cell)}", sys.stderr)
            try:
                outcome = one.run(progress)
            except Interrupted as end:
                say("interrupted: the claim is neither verified nor refuted")
                return 128 + end.number
            good += outcome.verified
            for line in _lines(claim, one, outcome):
                say(line)
        if runs_dir is not None and (store / study).is_dir():
            say(f"runs in {store / study}")
    if good == len(ready):
        say(f"verified: {good} of {len(ready)} runs")
        return VERIFIED
    say(f"not verified: {len(ready) - good} of {len(ready)} runs differ from what is claimed")
    return NOT_VERIFIED


class _Says:
    """Plain lines, at once."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def __call__(self, line: str) -> None:
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)


def _heading(claim: Claim, say: _Says) -> None:
    content = claim.content
    then = code.Version(content["code"]["commit"], content["code"]["dirty"])
    say(f"claim {claim.name} of {str(content['made'])[:10]}, made by {then}: {content['answer']}")
    if claim.others:
        say(f"not of the claim, and not used: {', '.join(claim.others)}")
    now = code.of_this_checkout()
    if then != now:
        say(f"this checkout is {now}")
    elif then.dirty:
        say(f"this checkout has uncommitted changes too; the claim's are in {claim.folder / 'code.diff'}")


@contextmanager
def _store(runs_dir: Path | None) -> Iterator[Path]:
    if runs_dir is not None:
        yield runs_dir
        return
    with tempfile.TemporaryDirectory(prefix="gpt_lab_verify_") as folder:
        yield Path(folder)


def _lines(claim: Claim, one: Prepared, outcome: RerunOutcome) -> Iterator[str]:
    """What a cell came to, then the facts in which it differs."""
    metric, claimed = claim.design["metric"], outcome.claimed
    name = selection.label(claim, one.cell)
    if outcome.score is None:
        yield f"{name}: different: {'; '.join(outcome.unequal)}"
        return
    if outcome.word == "identical":
        equal = "data, parameters and tokens too" if one.cell["data"] is not None else "parameters and tokens too"
        yield f"{name}: identical: {metric} {outcome.score!r}, to the last bit; {equal}"
        return
    held = f"{outcome.tolerance:.3g} would be noise ({outcome.basis})" if outcome.tolerance else outcome.basis
    yield (
        f"{name}: {outcome.word}: {metric} {outcome.score:.6g}, claimed {claimed:.6g}: {outcome.score - claimed:+.3g}; "
        f"{held}{''.join(f'; {fact}' for fact in outcome.unequal)}"
    )
