"""The files inside the `wordllama` wheel, found and read without the package's own look-up.

Importing the package configures the root logger at INFO and loads an HTTP client for downloads that must not happen,
so its two files are read as what they are: a tokenizer and a table of vectors.
"""

import importlib.util
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file
from tokenizers import Tokenizer


@cache
def load_tokenizer() -> Tokenizer:
    """The tokenizer, loaded once for each process; neither pads nor truncates."""
    tokenizer = Tokenizer.from_file(str(_folder() / "tokenizers" / "l2_supercat_tokenizer_config.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


@cache
def load_vectors() -> NDArray[np.float32]:
    """The vector of each token, (32000, 256), loaded once for each process."""
    table = load_file(_folder() / "weights" / "l2_supercat_256.safetensors")["embedding.weight"]
    return np.ascontiguousarray(table, dtype=np.float32)


def _folder() -> Path:
    spec = importlib.util.find_spec("wordllama")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("the package wordllama is not installed", name="wordllama")
    return Path(spec.origin).parent
