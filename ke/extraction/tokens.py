"""Text into the tokens of the tokenizer inside the `wordllama` wheel (Llama 2's, 32,000 pieces), word by word.

The tokenizer takes a text as one word, which costs it 0.2 us a character. None of its pieces reaches from a letter to a
digit or a mark of punctuation, over a line break, or over a space that follows anything but a space. So the tokens of a
text are those of its words, and most words were seen before.
"""

import re
from functools import cache, lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer, normalizers

from ke.extraction.wordllama_files import load_tokenizer

_SPACE: Final = "\u2581"
"""What the tokenizer has for a space. It begins every text with one."""
_MARKS: Final = r"!-/:-@\[-`{-~\r\u2000-\u206f\u00ab\u00bb\u00b2"
"""Punctuation, and what the tokenizer has pieces of together with it."""
_WORD: Final = re.compile(f"[ {_SPACE}]*(?:[^ {_SPACE}\n0-9{_MARKS}]+|[{_MARKS}]+|[0-9])|[ {_SPACE}]+|\n")
"""Where a word ends depends on the two characters at its end alone. Each piece of the tokenizer is one word."""
_SPECIAL: Final = re.compile(r"</?s>|<unk>")
"""What the tokenizer takes for marks of its own; it reads what follows as a new text."""
_MAX_WORD: Final = 40
"""Characters of a word that is kept."""
_MAX_WORDS: Final = 32_768
"""Words that a process keeps: some 8 MB."""


@lru_cache(maxsize=128)
def token_ids(text: str) -> NDArray[np.uint16]:
    """The text's tokens, without marks of where it begins and ends: what the tokenizer makes of it.

    The last ones are kept, as a chunk is counted first and embedded then.

    Raises:
        TypeError: The text has lone surrogates.
    """
    if _SPECIAL.search(text):
        return np.asarray(load_tokenizer().encode(text, add_special_tokens=False).ids, dtype=np.uint16)
    pieces = _WORD.findall(_SPACE + text) if text else []
    return np.frombuffer(b"".join(map(_kept().__getitem__, pieces)), dtype=np.uint16)


class _Words(dict[str, bytes]):
    """The tokens of words that were seen before, two bytes each; those of another one are made when it is asked for."""

    def __missing__(self, word: str) -> bytes:
        found = _reader().encode(word, add_special_tokens=False)
        tokens = np.asarray(found.ids, dtype=np.uint16).tobytes()
        if len(word) <= _MAX_WORD:
            if len(self) >= _MAX_WORDS:
                self.clear()
            self[word] = tokens
        return tokens


@cache
def _kept() -> _Words:
    """The words that this process keeps."""
    return _Words()


@cache
def _reader() -> Tokenizer:
    """The tokenizer for words: it puts no space before a text."""
    tokenizer = Tokenizer.from_str(load_tokenizer().to_str())
    tokenizer.normalizer = normalizers.Replace(" ", _SPACE)
    return tokenizer
