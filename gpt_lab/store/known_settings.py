"""Settings of thousands of records: what several of them state in the same words is parsed, checked and kept once."""

from __future__ import annotations

from typing import Any

from gpt_lab.config import schema
from gpt_lab.store import atomic_files
from gpt_lab.store.metric_lines import plain

_KEY, _BEGIN, _BETWEEN, _END = b'"config":', b'\n "config": {\n  "', b',\n  "', b"\n }"
"""How `write_json` lays out the settings of a run.json: one a line, their ends the only ones so far to the left."""


class Checked(dict[str, Any]):
    """Settings of which each was found good."""


class KnownSettings(dict[bytes, tuple[str, Any]]):
    """Good settings by the text that states them, which decides whether two are the same: 1, 1.0 and true are three."""

    def __missing__(self, text: bytes) -> tuple[str, Any]:
        setting = atomic_files.parse(b'{"' + text + b"}")
        ((key, value),) = setting.items()  # else a ValueError
        if schema.misfit(setting) or not (plain(value) or isinstance(value, list)):
            raise ValueError("no good setting")
        self[text] = key, value
        return key, value

    def parse(self, data: bytes) -> Any:
        """As atomic_files.parse, of a run.json; its `config` is Checked where it is all good and laid out as usual.

        Raises:
            ValueError: as atomic_files.parse.
        """
        begin, cut = data.find(_BEGIN), len(_BEGIN)
        end = data.find(_END, begin)
        if 0 <= begin < end and data.count(_KEY) == 1:
            try:
                settings = Checked(map(self.__getitem__, data[begin + cut : end].split(_BETWEEN)))
                record = atomic_files.parse(data[: begin + cut] + b'":0' + data[end:])
            except ValueError:
                return atomic_files.parse(data)
            if isinstance(record, dict) and record.get("config") == {"": 0}:
                record["config"] = settings
                return record
        return atomic_files.parse(data)
