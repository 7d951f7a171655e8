"""Subword tokenizers fitted on the training text that choose their pieces another way than BPE: unigram, WordPiece."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import regex

from gpt_lab.data.tokenizers.bpe import MIN_COUNT, WORD, check_vocab_size
from gpt_lab.data.tokenizers.library import LibraryTokenizer
from gpt_lab.data.tokenizers.tokenizer import EOT, head, unfilled
from gpt_lab.errors import DataError
from gpt_lab.options import PositiveInt
from gpt_lab.registry import register

DIGITS = 9
"""Decimals of a piece's log-probability that are kept: the library adds up in an order of its own, which changes the
last ones from fit to fit."""
STEP = 1e-4
"""The library gives characters that no word needs the lowest log-probability and so much more for each, in an order of
its own."""

INSIDE = regex.compile(r"(?<=[^\s\p{P}$+<=>^`|~])[^\s\p{P}$+<=>^`|~]")
"""A character of a word of BERT's that does not begin it."""


@register("tokenizer", "unigram")
class Unigram(LibraryTokenizer):
    """Unigram language model fitted on the training text: the likeliest of all ways to cut a word into pieces.

    Paper: Kudo 2018, arXiv:1804.10959

    Words are GPT-2's, as of tokenizer=bpe.

    vocab_size: the pieces and the end of text (the last token).
    fit_chars: pieces are learnt on the first so many characters of the training text.
    byte_fallback: pieces of bytes, with all 256 among them, so that any text comes back; false: of characters, and
      those that the training text lacks become one unknown token, which loses them.
    """

    fits = "train"

    def __init__(
        self, *, vocab_size: PositiveInt = 512, fit_chars: PositiveInt = 100_000_000, byte_fallback: bool = True
    ) -> None:
        self._wanted = check_vocab_size(vocab_size) if byte_fallback else vocab_size
        self._fit_chars, self._bytes = fit_chars, byte_fallback

    def fit(self, texts: Iterable[str]) -> list[str]:
        from tokenizers import Regex, decoders, models, pre_tokenizers, trainers
        from tokenizers import Tokenizer as Inner

        made = Inner(models.Unigram())
        if self._bytes:
            made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
            made.decoder = decoders.ByteLevel()
            own: dict[str, Any] = {"initial_alphabet": pre_tokenizers.ByteLevel.alphabet()}
        else:
            made.pre_tokenizer = pre_tokenizers.Split(Regex(WORD.pattern), "isolated")
            made.decoder = decoders.Fuse()
            own = {"special_tokens": [UNKNOWN], "unk_token": UNKNOWN}
        trainer = trainers.UnigramTrainer(vocab_size=self._wanted - 1, show_progress=False, **own)
        try:
            made.train_from_iterator(head(texts, self._fit_chars), trainer)
        except Exception as error:  # the library raises bare Exceptions, for no text or more characters than pieces
            raise _unfit("unigram", error) from error
        scored = [piece for piece in json.loads(made.to_str())["model"]["vocab"] if piece[0] != UNKNOWN]
        if not scored or any(score is None for _, score in scored):  # the logarithm of 0 of 0
            raise _unfit("unigram", "there is no training text")
        pieces = _in_order({text: round(score, DIGITS) for text, score in scored})
        unknown = [] if self._bytes else [(UNKNOWN, 0.0)]
        likeliest = sorted(pieces.items(), key=lambda piece: (-piece[1], piece[0]))
        made.model = models.Unigram([*unknown, *likeliest], unk_id=None if self._bytes else 0)
        return _finish(self, made, self._wanted)


@register("tokenizer", "wordpiece")
class WordPiece(LibraryTokenizer):
    """WordPiece as in BERT, fitted on the training text: lossy, for spaces, accents and control characters go.

    Paper: Devlin et al. 2018, arXiv:1810.04805

    Bits per byte are not known with it, and are withheld. A word is cut into its longest pieces from the left, those
    that do not begin it marked ##.

    vocab_size: the unknown token, the pieces and the end of text (the last token); fewer if the corpus cannot fill it.
    fit_chars: pieces are learnt on the first so many characters of the training text.
    lowercase: all text in lower case and without accents, as in BERT's uncased models.
    """

    fits = "train"

    def __init__(
        self, *, vocab_size: PositiveInt = 512, fit_chars: PositiveInt = 100_000_000, lowercase: bool = True
    ) -> None:
        self._wanted, self._fit_chars, self._lowercase = vocab_size, fit_chars, lowercase

    def fit(self, texts: Iterable[str]) -> list[str]:
        from tokenizers import Tokenizer as Inner
        from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

        made = Inner(models.WordPiece(unk_token=UNKNOWN))
        made.normalizer = normalizers.BertNormalizer(lowercase=self._lowercase)
        made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        made.decoder = decoders.WordPiece()
        learnt = list(head(texts, self._fit_chars))
        found = set[str]().union(*(INSIDE.findall(made.normalizer.normalize_str(text)) for text in learnt))
        # named beforehand, or the library would number them, and break ties, in an order of its own
        inside = [f"##{character}" for character in sorted(found)]
        trainer = trainers.WordPieceTrainer(
            vocab_size=self._wanted - 1, min_frequency=MIN_COUNT, show_progress=False, special_tokens=[UNKNOWN, *inside]
        )
        made.train_from_iterator(learnt, trainer)
        pieces = [piece for piece, _ in sorted(made.get_vocab().items(), key=lambda item: item[1])]
        plain = Inner(models.WordPiece({piece: i for i, piece in enumerate(pieces)}, unk_token=UNKNOWN))
        plain.normalizer, plain.pre_tokenizer = made.normalizer, made.pre_tokenizer
        plain.decoder = made.decoder
        return _finish(self, plain, self._wanted)


UNKNOWN = "<unk>"


def _in_order(pieces: dict[str, float]) -> dict[str, float]:
    """The pieces, of which those that no word needs get their scores in the order of their characters."""
    lowest = min(pieces.values())
    steps = {text: (score - lowest) / STEP for text, score in pieces.items() if len(text) == 1}
    spare = sorted(text for text, step in steps.items() if step < len(pieces) and abs(step - round(step)) < 1e-4)
    return pieces | dict(zip(spare, sorted((pieces[text] for text in spare), reverse=True), strict=True))


def _finish(tokenizer: LibraryTokenizer, inner: Any, wanted: int) -> list[str]:
    """Adds the end of text; the warnings of a fit."""
    from tokenizers import AddedToken

    name = type(tokenizer).part[1]  # type: ignore[attr-defined]
    size = inner.get_vocab_size()
    if size >= wanted:
        raise _unfit(name, f"the characters of the text alone are {size:,} tokens")
    if size < 2:
        raise _unfit(name, "there is no training text")
    inner.add_special_tokens([AddedToken(EOT, special=True, normalized=False)])
    tokenizer.take(inner, inner.token_to_id(EOT))
    return unfilled(wanted, tokenizer.vocab_size)


def _unfit(name: str, reason: object) -> DataError:
    text = " ".join(str(reason).split())
    return DataError(f"tokenizer={name} cannot be fitted: {text}; raise tokenizer.vocab_size, or use tokenizer=bpe")
