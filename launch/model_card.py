"""The README of an exported policy, for whoever finds the folder."""

from __future__ import annotations

from pathlib import Path

from partner_rl.config.schema import RunConfig

_CARD = """---
library_name: transformers
tags: [partner-rl, empathic-rewriting]
---

# Empathic rewriting policy

- Started from: {base}
- Data: {data}, seed {seed}
- Warm start on sentences of real responses, then reinforcement learning: {advantage}, {iterations} iterations of
  {groups} posts × {samples} samples

It reads a seeker's post and up to {window} sentences of a response, and answers with a position token and a sentence.
Use it with `partner-rl rewrite --model FOLDER`.

Its rewrites are suggestions for a human supporter to read before they are sent. Its rewards are classifiers' scores,
which do not show that a rewrite helps a person in distress.
"""


def model_card(config: RunConfig) -> str:
    """The card's text; of local paths it gives the last part only."""
    settings = config.algorithm
    return _CARD.format(
        base=Path(config.models.policy).name,
        data=Path(config.data.source).name,
        seed=config.seed,
        advantage=settings.advantage,
        iterations=settings.iterations,
        groups=settings.groups_per_iteration,
        samples=settings.samples_per_group,
        window=config.env.window,
    )
