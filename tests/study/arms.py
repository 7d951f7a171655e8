"""Arms of made-up studies, written as a reader sees them."""

from __future__ import annotations

from typing import Any

from gpt_lab.study.design import Settings


def settings(text: str) -> Settings:
    """`a=1, b=x` as settings: numbers as such, all else text; no setting for an empty text."""
    words = [word.partition("=") for word in text.split(", ") if word]
    return Settings(tuple((key, _value(value)) for key, _, value in words))


def _value(text: str) -> Any:
    try:
        return float(text) if {".", "e"} & set(text) else int(text)
    except ValueError:
        return text
