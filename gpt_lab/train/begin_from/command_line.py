"""The config of a command line, whether its run begins with new weights, another run's, or those of a folder."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from gpt_lab.config.schema import RunConfig
from gpt_lab.cost import match

NOBODY = ("null", "None", "~", "")


def compose(words: Sequence[str], usual: Callable[[Sequence[str]], RunConfig] = match.compose) -> RunConfig:
    """As the run's origin makes it, whose settings it keeps; `usual` composes what has none.

    Raises:
        ConfigError, DataError: as `usual`, or as the origin: model_from.compose, continuation.compose.
    """
    origins = {key for key, equals, value in (word.partition("=") for word in words) if equals and value not in NOBODY}
    if "model_from" in origins:
        from gpt_lab.train.begin_from import model_from

        return model_from.compose(words)
    if "resume_from" in origins:
        from gpt_lab.train.begin_from import continuation

        return continuation.compose(words)
    return usual(words)
