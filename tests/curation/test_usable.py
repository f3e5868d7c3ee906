"""What is of no use is told apart by its reason."""

from __future__ import annotations

import pytest

from partner_rl.curation.usable import Limits, why_unusable


@pytest.mark.parametrize(
    ("post", "reason"),
    [
        ("", "not_text"),
        (" \n\t\u00a0", "not_text"),
        ("a\0b c d", "not_text"),
        ("half of it is \ufffd\ufffd", "not_text"),
        ("??? !!! 123", "not_text"),
        ("Same.", "too_short"),
        ("a b", None),
        ("Sí, claro", None),
        ("x" * 20 + " y", "too_long"),
    ],
)
def test_reasons(post: str, reason: str | None):
    assert why_unusable(post, Limits(min_words=2, max_characters=20)) == reason
