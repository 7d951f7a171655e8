"""Tokenizers that are not the library's, as such of the `tokenizers` library: what other programs can read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gpt_lab.data.tokenizers.byte_level import BYTE_ORDER, CHARACTERS
from gpt_lab.data.tokenizers.tokenizer import EOT

Merge = tuple[bytes, bytes]
_NAMES = dict(zip(BYTE_ORDER, CHARACTERS, strict=True))


def of_characters(characters: Sequence[str], eot: int | None) -> Any:
    """One token a character; the library, too, refuses a character that is not among them."""
    from tokenizers import Regex, decoders, models, pre_tokenizers
    from tokenizers import Tokenizer as Inner

    made = Inner(models.WordLevel({text: i for i, text in enumerate(characters)}, unk_token=EOT + "unknown"))
    made.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    made.decoder = decoders.Fuse()
    return with_end(made, eot)


def of_bytes(names: Mapping[bytes, int], merges: Sequence[Merge], words: str | None, eot: int | None) -> Any:
    """Byte-level BPE.

    Args:
        names: the token of each piece, all single bytes among them.
        merges: pairs in the order in which they are merged.
        words: regular expression of the words that merges stay in; None: they may cross anything.
    """
    from tokenizers import Regex, decoders, models, pre_tokenizers
    from tokenizers import Tokenizer as Inner

    vocabulary = {_shown(piece): token for piece, token in names.items()}
    pairs = [(_shown(left), _shown(right)) for left, right in merges]
    made = Inner(models.BPE(vocab=vocabulary, merges=pairs, ignore_merges=words is not None))
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    cut = [] if words is None else [pre_tokenizers.Split(Regex(words), "isolated")]
    made.pre_tokenizer = pre_tokenizers.Sequence([*cut, level])
    made.decoder = decoders.ByteLevel()
    return with_end(made, eot)


def merges_of_ranks(ranks: Mapping[bytes, int]) -> list[Merge]:
    """The merges behind a vocabulary that only ranks its pieces, as tiktoken's: those before a piece cut it."""
    found = []
    for piece, rank in sorted(ranks.items(), key=lambda item: item[1]):
        if len(piece) == 1:
            continue
        parts = [bytes((byte,)) for byte in piece]
        while len(parts) > 2:
            pairs = [ranks.get(parts[i] + parts[i + 1], rank) for i in range(len(parts) - 1)]
            best = min(range(len(pairs)), key=pairs.__getitem__)
            if pairs[best] >= rank:
                break
            parts[best : best + 2] = [parts[best] + parts[best + 1]]
        if len(parts) == 2:
            found.append((parts[0], parts[1]))
    return found


def with_end(inner: Any, eot: int | None) -> Any:
    """The tokenizer with the end of text, which is its last token, where it lacks it."""
    from tokenizers import AddedToken

    if eot is not None and inner.id_to_token(eot) is None:
        inner.add_special_tokens([AddedToken(EOT, special=True, normalized=False)])
    return inner


def _shown(piece: bytes) -> str:
    return "".join(_NAMES[byte] for byte in piece)
