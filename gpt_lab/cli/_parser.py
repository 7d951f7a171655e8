"""Options of the scripts that take no Hydra overrides."""

from __future__ import annotations

import argparse
from typing import NoReturn

from gpt_lab.errors import ConfigError


class Parser(argparse.ArgumentParser):
    """argparse whose refusals are one line, like every other error of the lab."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{self.prog}: {message} (see {self.prog} --help)")
