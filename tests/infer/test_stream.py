"""Text from a stream of tokens: whole characters only, nothing lost."""

from __future__ import annotations

import random

import pytest
import tokenizers

from gpt_lab.infer.stream import StopStrings, TextStream, text

TEXT = "naïve café — 東京タワー 😀👩‍👩‍👧‍👦 Ωμέγα\n𝔘𝔫𝔦 end"


class Pieces:
    """A tokenizer whose tokens are any byte strings."""

    def __init__(self, pieces: list[bytes]) -> None:
        self.pieces = pieces

    def decode_bytes(self, ids: list[int]) -> bytes:
        return b"".join(self.pieces[i] for i in ids)


class Words(Pieces):
    """A tokenizer that puts spaces between words, so that the first word of any decoded list has none."""

    def decode_bytes(self, ids: list[int]) -> bytes:
        return b" ".join(self.pieces[i] for i in ids)


def cut(data: bytes, seed: int) -> list[bytes]:
    draw, pieces = random.Random(seed), []
    while data:
        size = draw.choice([1, 1, 2, 3, 7])
        pieces.append(data[:size])
        data = data[size:]
    return pieces


@pytest.mark.parametrize("seed", range(20))
def test_characters_split_over_tokens_come_out_whole(seed: int) -> None:
    pieces = cut(TEXT.encode(), seed)
    stream, shown = TextStream(Pieces(pieces)), ""
    for i in range(len(pieces)):
        piece = stream.push(i)
        assert "\ufffd" not in piece
        shown += piece
        assert TEXT.startswith(shown)
        waiting = len(b"".join(pieces[: i + 1])) - len(shown.encode())
        assert 0 <= waiting <= 3  # nothing is held back that could be shown
    assert shown + stream.close() == TEXT


@pytest.mark.parametrize("seed", range(50))
def test_random_bytes_give_what_decoding_them_at_once_gives(seed: int) -> None:
    data = random.Random(seed).randbytes(60)
    pieces = cut(data, seed)
    assert text(Pieces(pieces), range(len(pieces))) == data.decode("utf-8", errors="replace")


def test_an_unfinished_character_is_replaced_at_the_end_only() -> None:
    stream = TextStream(Pieces([b"a", *(bytes([b]) for b in "😀".encode()[:3])]))
    assert [stream.push(i) for i in range(4)] == ["a", "", "", ""]
    assert stream.close() == "\ufffd"


def test_spaces_that_depend_on_a_neighbour_are_kept() -> None:
    words = Words([b"to", b"be", b"or", b"not"])
    assert text(words, [1, 2, 3], prompt_ids=[0]) == " be or not"
    assert text(words, [0, 1, 2, 3] * 5) == " ".join(["to be or not"] * 5)


@pytest.mark.parametrize("seed", range(5))
def test_a_tokenizer_of_sentencepiece_kind_streams_whole_characters(seed: int) -> None:
    """Byte fallback marks unfinished characters itself and takes the marks back; a leading space depends on context."""
    vocab = {"<unk>": 0, "▁": 1, "▁the": 2, "e": 3, "n": 4, "d": 5} | {f"<0x{b:02X}>": 6 + b for b in range(256)}
    inner = tokenizers.Tokenizer(tokenizers.models.BPE(vocab, [], unk_token="<unk>", byte_fallback=True))
    inner.decoder = tokenizers.decoders.Sequence(
        [
            tokenizers.decoders.Replace("▁", " "),
            tokenizers.decoders.ByteFallback(),
            tokenizers.decoders.Fuse(),
            tokenizers.decoders.Strip(" ", 1, 0),
        ]
    )

    class Library:
        def decode_bytes(self, ids: list[int]) -> bytes:
            return str(inner.decode(ids, skip_special_tokens=False)).encode()

    draw, ids, expected = random.Random(seed), [2], "the"
    for _ in range(60):
        word = draw.choice([" the", "e", "n", "d", " ", "é", "東", "😀"])
        ids += (
            [vocab[word.replace(" ", "▁")]]
            if len(word.encode()) == 1 or " " in word
            else [6 + b for b in word.encode()]
        )
        expected += word
    stream = TextStream(Library())
    pieces = [stream.push(i) for i in ids]
    assert "\ufffd" not in "".join(pieces)
    assert "".join(pieces) + stream.close() == expected


def test_stop_strings_cut_as_reading_letter_by_letter_would() -> None:
    """Random texts of few letters, cut into random pieces; nothing is shown that is not part of the result."""
    draw = random.Random(6)
    met = 0
    for _ in range(2000):
        whole = "".join(draw.choice("ab\n") for _ in range(draw.randint(0, 14)))
        strings = ["".join(draw.choice("ab\n") for _ in range(draw.randint(1, 4))) for _ in range(draw.randint(0, 3))]
        ends = [end for end in range(len(whole) + 1) if any(whole[:end].endswith(one) for one in strings)]
        expected = whole
        if ends:
            met += 1
            expected = whole[: ends[0] - max(len(one) for one in strings if whole[: ends[0]].endswith(one))]
        stops, shown, rest = StopStrings(strings), "", whole
        while rest:
            size = draw.randint(1, 5)
            shown += stops.push(rest[:size])
            rest = rest[size:]
            assert expected.startswith(shown)
        assert shown + stops.close() == expected and stops.met == bool(ends)
    assert 300 < met < 1700
