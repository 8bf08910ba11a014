"""The optional embedder and the reranker over it."""

import math
import subprocess
import sys
import uuid
from pathlib import Path

import numpy as np
import pytest

from api.schemas import ExtractBody
from api.search_body import SearchBody
from ke.contracts.errors import InvalidInput
from ke.contracts.jobs import ExtractSpec
from ke.extraction import embed as embedders
from ke.extraction.embed import collection_name, dimensions, embed
from ke.extraction.minilm import WINDOW, load_pieces
from ke.extraction.pipeline import SourceText, extract_source
from ke.extraction.rerank import judge
from ke.runtime.pool import CpuPool

TEXTS = ["The cat sat on the mat.", "a", "漢字", "🙂", "\x00", "word " * 700, "Ärger " * 50, "</s> [SEP]", "\u200b"]


def test_vectors_have_length_one_in_any_company() -> None:
    """Every text with something in it has a finite vector, the same alone as among others."""
    vectors = embed("minilm", TEXTS)
    assert [len(vector) for vector in vectors] == [dimensions("minilm")] * len(TEXTS) == [384] * len(TEXTS)
    for vector in vectors:
        assert math.isclose(math.sqrt(sum(value * value for value in vector)), 1.0, rel_tol=1e-5)
    assert vectors[0] == embed("minilm", [TEXTS[0]])[0]
    assert collection_name("minilm") == "minilm-384"


def test_words_are_cut_as_the_model_learned_them() -> None:
    """The pieces and their numbers are BERT's: what they are is in every description of the model."""
    encoding = load_pieces().encode("Embeddings, naïve ones!", add_special_tokens=False)
    assert encoding.tokens == ["em", "##bed", "##ding", "##s", ",", "naive", "ones", "!"]
    assert encoding.ids == [7861, 8270, 4667, 2015, 1010, 15743, 3924, 999]


def test_meaning_is_found_where_no_word_is_shared() -> None:
    """The model knows that a locomotive is a train, and reads on behind its window."""
    query, near, far = (np.asarray(v) for v in embed("minilm", ["trains", "a steam locomotive", "rye bread"]))
    assert query @ near > query @ far + 0.3
    late = "bread and butter " * WINDOW + "steam locomotives pull trains " * WINDOW
    plain = "bread and butter " * WINDOW
    first, second = (np.asarray(v) for v in embed("minilm", [plain, late]))
    assert query @ second > query @ first + 0.1


def test_reranker_judges_texts() -> None:
    """A judgement is from 0 to 1, the text that answers has the highest."""
    scores = judge("minilm", "how does bread rise", ["Yeast makes gas in the dough.", "The tower has a lamp."])
    assert 1 >= scores[0] > scores[1] >= 0
    with pytest.raises(InvalidInput, match="known: minilm"):
        judge("wordllama", "a", ["b"])


def test_what_is_not_installed_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the extra a job and a search that name it are refused, with what to install."""
    monkeypatch.setattr("ke.extraction.minilm.find_spec", lambda name: None if name == "onnxruntime" else object())
    for call in (
        lambda: embed("minilm", ["a"]),
        lambda: SearchBody(query="a", embedder="minilm"),
        lambda: SearchBody(query="a", rerank="minilm"),
        lambda: ExtractBody(kind="extract", source_job_id="0b6b1c1e-7f0e-4f3a-9f0a-2f1d8f6f1a11", embedder="minilm"),
    ):
        with pytest.raises((InvalidInput, ValueError), match=r"needs onnxruntime, .*pip install 'ke\[minilm\]'"):
            call()


def test_it_is_not_loaded_where_it_is_not_used() -> None:
    """Importing the embedders imports no onnxruntime: a tenth of a second, and it may not be there."""
    program = "import sys, ke.extraction.embed, ke.extraction.rerank; print('onnxruntime' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


SOURCE = Path(embedders.__file__).read_text(encoding="utf-8")


async def test_a_source_is_extracted_with_it() -> None:
    """In pool processes each chunk gets the vector that it has here, in batches that the embedder can do in time."""
    pool = CpuPool(1)
    try:
        made = await extract_source(
            pool, SourceText(uuid.uuid4(), SOURCE), ExtractSpec(embedder="minilm", entities=None, chunk_tokens=64)
        )
    finally:
        await pool.close()
    assert made.collection == "minilm-384"
    assert len(made.chunks) > embedders.find_embedder("minilm").batch
    last = made.chunks[-1]
    assert np.allclose(last.vector, embed("minilm", [last.chunk.text])[0], atol=1e-5)
