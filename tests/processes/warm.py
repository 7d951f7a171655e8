"""What tests/processes/commands.py forks from: imported once, it has torch, the lab and pytest ready.

Nothing of it starts a thread but pyarrow's allocator, which minds forks.
"""

from __future__ import annotations

import gc

import hydra  # noqa: F401
import pandas  # noqa: F401
import pytest  # noqa: F401
import rich.live  # noqa: F401
import scipy.stats  # noqa: F401

import gpt_lab.cli.train
import gpt_lab.plan.dry_run
import gpt_lab.report.write
import gpt_lab.sweep.runner  # noqa: F401
from gpt_lab.config import composition
from gpt_lab.sweep.workers import forkserver
from gpt_lab.train.speed.peak_flops import peak_flops

composition.compose(["scale.depth=1"])  # reads what settings there are, and builds the parser of overrides
forkserver.prepare()
forkserver.complete()
peak_flops("cpu", "fp32")  # else whatever trains measures it: a fifth of a second each time
gc.collect()
gc.freeze()  # a collection in a fork would copy every page that it marks
