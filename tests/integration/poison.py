"""A finder of entities for pool processes, which some texts kill or upset: pool functions are of importable modules."""

import os

from ke.extraction import entities
from ke.extraction.entities import Mention

DEADLY = "xxDEADLYxx"
UPSETTING = "xxUPSETTINGxx"


def find_entities(name: str, texts: list[str]) -> list[list[Mention]]:
    """The real finder's mentions, unless one of the texts is deadly or upsetting."""
    if any(DEADLY in text for text in texts):
        os._exit(9)
    if any(UPSETTING in text for text in texts):
        raise ZeroDivisionError("a text that the model trips over")
    return entities.find_entities(name, texts)
