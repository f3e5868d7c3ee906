"""Personal data in posts → placeholders.

Mail addresses and URLs are found by linkify-it, telephone numbers by Google's libphonenumber (`phonenumbers`); user
names are a matter of the platforms' own notation, for which there is no library. Presidio was not taken: what it has
for these kinds are regular expressions too, and it installs spaCy.

The libraries are slow on plain prose, so cheap expressions decide first where a text can hold anything at all.
Obfuscated data ("joe at mail dot com") and names of people are out of scope.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Final

import phonenumbers
from linkify_it import LinkifyIt

from partner_rl.types import PartnerError

EMAIL: Final = "[EMAIL]"
URL: Final = "[URL]"
PHONE: Final = "[PHONE]"
USER: Final = "[USER]"

KINDS: Final = {EMAIL: "email", URL: "url", PHONE: "phone", USER: "user"}
"""Placeholder → its name in counts."""

PHONE_REGIONS: Final = ("US", "GB")
"""Regions whose national notation is recognised; international notation is recognised everywhere."""

_BARE_DOMAINS: Final = [
    "com",
    "org",
    "net",
    "edu",
    "gov",
    "info",
    "biz",
    "uk",
    "ca",
    "au",
    "de",
    "eu",
    "ly",
    "io",
    "gg",
]
"""Endings of a URL without `http` or `www`. Not every one there is: in "I was tired.so what", "so" is a word."""

_PLAIN_AT: Final = frozenset({"home", "work", "school", "night", "all", "everyone", "here", "me", "the", "least", "op"})
"""Words that follow an @ that stands for "at" or addresses everybody."""

_DOMAIN_DOT: Final = re.compile(r"\.[A-Za-z]{2}")
_LINK_TOKEN: Final = re.compile(r"\S*(?:@|//|\.[A-Za-z]{2})\S*")
_DIGITS: Final = re.compile(r"[0-9](?:\W{0,3}[0-9]){7}")
_USER: Final = re.compile(
    r"(?<![\w/.])/?[uU]/[A-Za-z0-9][A-Za-z0-9_-]{2,19}(?![\w-])|(?<![\w@./+-])@(?P<name>[A-Za-z_][A-Za-z0-9_.]{0,29})(?<!\.)"
)


@dataclass(frozen=True, slots=True)
class Span:
    """The characters from `start` to before `end`, and what stands for them."""

    start: int
    end: int
    placeholder: str


def check_regions(regions: Sequence[str]) -> None:
    """Checks names of regions.

    Raises:
        PartnerError: One of them is unknown.
    """
    for region in regions:
        if region not in phonenumbers.SUPPORTED_REGIONS:
            raise PartnerError(f"unknown phone region {region!r}: give two letters, such as US")


def may_hold_personal_data(text: str) -> bool:
    """False if `find` finds nothing for certain; takes a few microseconds."""
    return "@" in text or "/" in text or bool(_DOMAIN_DOT.search(text)) or bool(_DIGITS.search(text))


def find(text: str, phone_regions: Sequence[str] = PHONE_REGIONS) -> tuple[Span, ...]:
    """All personal data of a text, in order and without overlaps."""
    if not may_hold_personal_data(text):
        return ()
    found: list[Span] = []
    # What is found first keeps its place: a mail address holds a domain, a URL may hold digits and user names.
    for span in (*_links(text), *_users(text), *_phones(text, phone_regions)):
        if all(span.end <= other.start or other.end <= span.start for other in found):
            found.append(span)
    return tuple(sorted(found, key=lambda span: span.start))


def replace(text: str, phone_regions: Sequence[str] = PHONE_REGIONS) -> tuple[str, Counter[str]]:
    """The text with placeholders for personal data; doing it again changes nothing.

    Returns:
        The new text; how many of each kind were replaced (`email`, `url`, `phone`, `user`).
    """
    counts: Counter[str] = Counter()
    # A placeholder may part what hid another match; every round leaves fewer characters that are not placeholders.
    while spans := find(text, phone_regions):
        pieces = []
        end = 0
        for span in spans:
            pieces += [text[end : span.start], span.placeholder]
            end = span.end
            counts[KINDS[span.placeholder]] += 1
        text = "".join([*pieces, text[end:]])
    return text, counts


def _links(text: str) -> Iterator[Span]:
    mail, web = _linkifiers()
    for token in _LINK_TOKEN.finditer(text):
        start = token.start()
        for match in mail.match(token[0]) or ():
            if match.schema == "mailto:":
                yield Span(start + match.index, start + match.last_index, EMAIL)
        for match in web.match(token[0]) or ():
            if match.schema != "mailto:":
                yield Span(start + match.index, start + match.last_index, URL)


@cache
def _linkifiers() -> tuple[LinkifyIt, LinkifyIt]:
    """For mail (every country's ending) and for URLs (few endings without `http`)."""
    web = LinkifyIt(options={"fuzzy_email": False, "fuzzy_link": True, "fuzzy_ip": False})
    return LinkifyIt(), web.tlds(_BARE_DOMAINS)


def _users(text: str) -> Iterator[Span]:
    for match in _USER.finditer(text):
        if (match["name"] or "").lower() not in _PLAIN_AT:
            yield Span(match.start(), match.end(), USER)


def _phones(text: str, regions: Sequence[str]) -> Iterator[Span]:
    if not _DIGITS.search(text):
        return
    for region in regions:
        for match in phonenumbers.PhoneNumberMatcher(text, region, phonenumbers.Leniency.VALID):
            yield Span(match.start, match.end, PHONE)
