"""Personal data is found where it is, and plain prose is left alone."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from partner_rl.curation.pii import check_regions, find, may_hold_personal_data, replace
from partner_rl.data.readers import read_examples
from partner_rl.types import PartnerError

PERSONAL = [
    ("Write to joe.b+x@example.com.", "Write to [EMAIL]."),
    ("(joe@mail.example.co.uk)", "([EMAIL])"),
    ("joe_b@example.org, ann@example.net", "[EMAIL], [EMAIL]"),
    ("mailto:joe@example.com", "[EMAIL]"),
    ("JOE@EXAMPLE.COM!", "[EMAIL]!"),
    ("see https://example.org/a?b=c#d, then", "see [URL], then"),
    ("see (http://example.org).", "see ([URL])."),
    ("www.example.org/x helps", "[URL] helps"),
    ("go to example.com/help now", "go to [URL] now"),
    ("example.org.", "[URL]."),
    ("ftp://example.org/file", "[URL]"),
    ("http://joe:pw@example.org/@ann", "[URL]"),
    ("[this](https://example.org)", "[this]([URL])"),
    ("Call 212-555-0123 or +44 20 7946 0958.", "Call [PHONE] or [PHONE]."),
    ("my number (415) 555-2671", "my number [PHONE]"),
    ("1-800-273-8255 is free", "[PHONE] is free"),
    ("text 07911 123456", "text [PHONE]"),
    ("2125550123", "[PHONE]"),
    ("tel:+12125550123", "tel:[PHONE]"),
    ("thanks u/some-one, /u/Other_1 and U/THIRD!", "thanks [USER], [USER] and [USER]!"),
    ("@joe_b. you too @Ann", "[USER]. you too [USER]"),
    ("joe@example.com or 212-555-0123 or u/joe on https://example.org", "[EMAIL] or [PHONE] or [USER] on [URL]"),
]

PLAIN = [
    "I take it 24/7, at 10:30 and 22:15, 1/2 each time, and/or more.",
    "10-15 minutes, 2-3 times, 50/50, 9 to 5, 3.14 or 1,000,000.50 dollars",
    "In 2019-10-12, 12/10/2019 and 12.10.2019; from 2010 to 2015, 1990-2020.",
    "I was tired.so I slept.It was fine.me too",
    "e.g.this, i.e.that, the U.S.A. and a Ph.D. at 5 p.m.today",
    "We meet @ 5pm @home, not @work. Hi @everyone",
    "r/depression and r/offmychest are kind",
    "text HOME to 741741 or dial 988 or 911",
    "it costs $1,234,567.89, ISBN 978-3-16-148410-0, card 1234567890123456",
    "so... what?!?! ok...com on: a/b, he/she/they",
    "",
    "5 10 15 20 25 30 35 40",
]


@pytest.mark.parametrize(("text", "expected"), PERSONAL)
def test_personal_data_is_replaced(text: str, expected: str):
    new, counts = replace(text)
    assert new == expected
    assert counts.total() == sum(expected.count(mark) for mark in ("[EMAIL]", "[URL]", "[PHONE]", "[USER]"))
    assert replace(new) == (new, {})


@pytest.mark.parametrize("text", PLAIN)
def test_plain_prose_is_left_alone(text: str):
    assert replace(text) == (text, {})


def test_places_and_kinds_are_told():
    text = "Ask u/joe or joe@example.com"
    assert [(text[span.start : span.end], span.placeholder) for span in find(text)] == [
        ("u/joe", "[USER]"),
        ("joe@example.com", "[EMAIL]"),
    ]
    assert replace(text)[1] == {"user": 1, "email": 1}


def test_national_numbers_belong_to_regions():
    assert replace("030 901820", ("DE",))[0] == "[PHONE]"
    assert replace("030 901820", ("US",))[0] == "030 901820"
    assert replace("+49 30 901820", ("US",))[0] == "[PHONE]"
    with pytest.raises(PartnerError, match="unknown phone region 'XX'"):
        check_regions(("US", "XX"))


def test_the_sample_holds_none():
    posts = {
        post for example in read_examples("sample").examples for post in (example.seeker_post, example.response_post)
    }
    assert not [post for post in posts if find(post)]


PIECES = st.sampled_from(
    ["@", "u/", "joe", "example.com", "http://", "www.", ".", "/", ":", " ", "212-555-0123", "+1", "[URL]", "[USER]"]
) | st.text(max_size=6)


@given(st.lists(PIECES, max_size=12).map("".join))
@settings(max_examples=400, deadline=None)
def test_doing_it_again_changes_nothing(text: str):
    new, counts = replace(text)
    assert replace(new) == (new, {})
    assert (new != text) == bool(counts)
    if not may_hold_personal_data(text):
        assert new == text


@given(st.lists(PIECES, max_size=12).map("".join))
@settings(max_examples=200, deadline=None)
def test_places_are_in_order_and_apart(text: str):
    spans = find(text)
    ends = [0, *(span.end for span in spans)]
    assert all(end <= span.start < span.end <= len(text) for end, span in zip(ends, spans, strict=False))
