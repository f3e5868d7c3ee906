"""Model cards: the `README.md` of a model's folder, as model hubs read and show it."""

from __future__ import annotations

from huggingface_hub import ModelCard, ModelCardData

CARD = "README.md"
"""The file of a card."""


def model_card(text: str, *tags: str, library: str | None = "transformers") -> str:
    """A card with the metadata that hubs find models by."""
    data = ModelCardData(library_name=library, tags=["partner-rl", *tags])
    return str(ModelCard(f"---\n{data.to_yaml()}\n---\n\n{text}"))
