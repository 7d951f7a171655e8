"""Bytes as GPT-2 numbers and shows them (Radford et al. 2019), in all byte-level vocabularies since."""

_PRINTABLE = (*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1))
BYTE_ORDER = (*_PRINTABLE, *(byte for byte in range(256) if byte not in _PRINTABLE))
"""The byte that each of the first 256 tokens stands for, in GPT-2's order: printable ones first."""
CHARACTERS = [chr(byte) for byte in BYTE_ORDER[:188]] + [chr(256 + i) for i in range(68)]
"""The character behind each byte, in BYTE_ORDER, in the name of a byte-level token (GPT-2's `bytes_to_unicode`)."""
