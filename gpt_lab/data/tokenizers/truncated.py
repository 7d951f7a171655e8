"""Ready-made vocabularies cut to their first merges: what later merges would join stays in pieces, down to bytes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from gpt_lab.data.tokenizers.byte_level import CHARACTERS
from gpt_lab.errors import ConfigError, DataError

FALLBACK = [f"<0x{byte:02X}>" for byte in range(256)]
"""Names of the bytes in vocabularies with byte fallback, as in Llama's."""


def first_merges(inner: Any, size: int, end: str) -> Any:
    """A BPE tokenizer of the `tokenizers` library with its first merges only, as many as fit into `size` tokens.

    Args:
        size: all tokens: the bytes, those that the merges join and make, and the end of text, which is the last.
        end: the name of the end of text.

    Raises:
        DataError: it is no BPE, or cannot write every byte, so that what is cut off would be lost.
        ConfigError: the size has no room for the bytes, or is more than there is.
    """
    from tokenizers import AddedToken
    from tokenizers import Tokenizer as Inner

    described = json.loads(inner.to_str())
    model = described["model"]
    known: Mapping[str, int] = model.get("vocab", {}) if model.get("type") == "BPE" else {}
    bytes_ = next((names for names in (CHARACTERS, FALLBACK) if known.keys() >= set(names)), None)
    byte_level = (described.get("decoder") or {}).get("type") == "ByteLevel"
    if bytes_ is None or not (byte_level if bytes_ is CHARACTERS else model.get("byte_fallback")):
        raise DataError(
            "tokenizer.vocab cuts a BPE vocabulary that can write every byte, and this one cannot: what is cut off "
            "would be lost; set tokenizer.vocab=null"
        )
    _check(size, len(known) + (end not in known))
    kept = dict.fromkeys([*bytes_, *filter(None, (model.get("unk_token"),))])
    merges = []
    for left, right in model["merges"]:
        needed = [piece for piece in (left, right, left + right) if piece not in kept]
        if len(kept) + len(needed) > size - 1:
            break
        kept |= dict.fromkeys(needed)
        merges.append((left, right))
    if len(kept) > size - 1:
        raise _too_small(size, len(kept) + 1)
    order = sorted(kept, key=lambda piece: known.get(piece, -1))
    model |= {"vocab": {piece: i for i, piece in enumerate(order)}, "merges": merges}
    described |= {"added_tokens": [], "post_processor": None}
    made = Inner.from_str(json.dumps(described))
    made.add_special_tokens([AddedToken(end, special=True, normalized=False)])
    return made


def first_ranks(ranks: Mapping[bytes, int], size: int) -> dict[bytes, int]:
    """The first size - 1 of tiktoken's ranks, in their order: one more is for the end of text.

    Raises:
        ConfigError: as first_merges.
    """
    _check(size, len(ranks) + 1)
    single = [token for token in ranks if len(token) == 1]
    merged = sorted((token for token in ranks if len(token) > 1), key=lambda token: ranks[token])
    if len(single) > size - 1:
        raise _too_small(size, len(single) + 1)
    kept = sorted([*single, *merged[: size - 1 - len(single)]], key=lambda token: ranks[token])
    return {token: rank for rank, token in enumerate(kept)}


def _check(size: int, whole: int) -> None:
    if size > whole:
        raise ConfigError(f"tokenizer.vocab={size} is more than the {whole:,} tokens there are: lower it, or null")


def _too_small(size: int, least: int) -> ConfigError:
    return ConfigError(f"tokenizer.vocab={size} has no room for every byte and the end of text: at least {least}")
