"""Embedders: names, lengths, and what has no vector."""

import json
import math
import subprocess
import sys

import numpy as np
import pytest

from ke.contracts.errors import InvalidInput
from ke.extraction.chunk import Outline, chunk_piece
from ke.extraction.embed import collection_name, dimensions, embed, find_embedder
from ke.extraction.pipeline import chunk_and_embed, chunk_and_embed_each

TEXTS = ["The cat sat on the mat.", "a", "漢字", "🙂", "\x00", "x" * 20_000, "Ärger " * 50, "</s>", "\u200b"]


def test_vectors_have_length_one() -> None:
    """Every text with something in it has a finite vector of 256 dimensions and length 1."""
    vectors = embed("wordllama", TEXTS)
    assert [len(vector) for vector in vectors] == [dimensions("wordllama")] * len(TEXTS)
    for vector in vectors:
        assert math.isclose(math.sqrt(sum(value * value for value in vector)), 1.0, rel_tol=1e-5)


def test_vectors_do_not_depend_on_company() -> None:
    """A text has the same vector alone as in a batch with longer ones: nothing is padded."""
    assert [embed("wordllama", [text])[0] for text in TEXTS] == embed("wordllama", TEXTS)


def test_short_piece_is_embedded_where_it_is_chunked() -> None:
    """The chunks are those of `chunk_piece` and the vectors those of `embed`; a long piece's are left to batches."""
    text = "# Cats\n\n" + "The [cat](https://cats.example/) sat on the mat. " * 40
    chunks, outline, vectors = chunk_and_embed(text, 64, 5, 3, Outline(), "wordllama")
    assert (chunks, outline) == chunk_piece(text, 64, 5, 3, Outline())
    assert len(chunks) > 3
    assert vectors == embed("wordllama", [chunk.text for chunk in chunks])
    chunks, _, vectors = chunk_and_embed(text * 40, 64, 0, 0, Outline(), "wordllama")
    assert len(chunks) > find_embedder("wordllama").batch
    assert vectors == []


def test_short_texts_are_embedded_together_up_to_a_batch() -> None:
    """Each text's chunks and vectors are those that it has alone; what is beyond a batch is left to others."""
    texts = [
        "# Cats\n\nThe cat sat. " * 20,
        "",
        " \n ",
        "# Dogs\n\nThe dog sat on the mat. " * 400,
        "The cow.",
        "Sheep. " * 9000,
    ]
    made = chunk_and_embed_each(texts, 64, "wordllama")
    assert [chunks for chunks, _ in made] == [chunk_piece(text, 64, 0, 0, Outline())[0] for text in texts]
    numbers = [len(chunks) for chunks, _ in made]
    assert sum(numbers[:-1]) <= find_embedder("wordllama").batch < sum(numbers)
    for chunks, vectors in made[:-1]:
        assert vectors == embed("wordllama", [chunk.text for chunk in chunks])
    assert made[-1][1] == []


def test_near_texts_are_near() -> None:
    """What means the same is nearer than what does not."""
    query, near, far = (np.asarray(v) for v in embed("wordllama", ["a kitten", "small cats", "bond yields rose"]))
    assert query @ near > query @ far + 0.1


def test_vectors_are_those_of_the_library() -> None:
    """The wheel's own class, in another process as it changes global logging, gives the same numbers."""
    program = (
        "import json, pathlib, sys, wordllama\n"
        "folder = pathlib.Path(wordllama.__file__).parent\n"
        "model = wordllama.WordLlama.load(cache_dir=folder, disable_download=True)\n"
        "print(json.dumps(model.embed(json.load(sys.stdin), norm=True, return_np=False)))\n"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, input=json.dumps(TEXTS[:3]), capture_output=True, text=True, check=True)
    assert np.allclose(np.array(json.loads(done.stdout)), np.array(embed("wordllama", TEXTS[:3])), atol=1e-5)


@pytest.mark.parametrize("text", ["", " ", "\n\t"])
def test_empty_text_has_no_vector(text: str) -> None:
    """An empty text is refused by its number, never turned into NaN."""
    with pytest.raises(InvalidInput, match="text 1 is empty"):
        embed("wordllama", ["fine", text])


def test_lone_surrogates_are_refused() -> None:
    """Half a character is no text."""
    with pytest.raises(InvalidInput, match="Unicode"):
        embed("wordllama", ["\ud800"])


def test_no_texts_no_vectors() -> None:
    """An empty batch is empty."""
    assert embed("wordllama", []) == []


def test_unknown_name_lists_the_known() -> None:
    """An unknown embedder is an error that names those there are, in every function."""
    for call in (dimensions, collection_name, lambda name: embed(name, ["a"])):
        with pytest.raises(InvalidInput, match="known: minilm, wordllama"):
            call("nothing")


def test_collection_has_name_and_dimensions() -> None:
    """Vectors that do not compare are never in one collection."""
    assert collection_name("wordllama") == "wordllama-256"


def test_where_links_lead_does_not_move_a_vector() -> None:
    """A text with links has the vector of its words."""
    linked = ["See [the \\[old\\] map](http://h/a?b=c%281%29) of [Paris](https://h/x).", "[](http://h/)"]
    assert embed("wordllama", linked) == embed("wordllama", ["See the \\[old\\] map of Paris.", "[](http://h/)"])
