"""Random states that the probe leaves as they were."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from gpt_lab.devices import hardware

SEED = 1


@contextmanager
def own_randomness(device: str) -> Iterator[None]:
    """Leaves all random states as they were."""
    states = random.getstate(), np.random.get_state()
    own = hardware.random_state(device)
    with torch.random.fork_rng([]):
        try:
            seed_all(device)
            yield
        finally:
            if own is not None:
                hardware.set_random_state(device, own)
            random.setstate(states[0])
            np.random.set_state(states[1])


def seed_all(device: str) -> None:
    """For parts that draw by themselves."""
    torch.default_generator.manual_seed(SEED)  # torch.manual_seed spends 1 ms on devices that are not there
    hardware.seed(device, SEED)
    random.seed(SEED)
    np.random.seed(SEED)
