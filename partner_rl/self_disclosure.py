"""Which sentences speak of the writer's own life: "I've been through the same", "I'm 21", "me too".

A peer may say so. From a language model it is false, whoever sends it, and the empathy classifier pays for it: sharing
an experience counts as an interpretation (Sharma et al., EMNLP 2020). A policy that is free to write it writes it to
everybody. Rules, no model: every word of the first person must belong to a phrase that is about the reader ("I'm
sorry", "I hope", "tell me more"), so that a new way of speaking of oneself is caught without being listed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

_WORD: Final = re.compile(r"\w+(?:'\w+)*")
_CONTRACTIONS: Final[Mapping[str, str]] = {
    **dict.fromkeys(("i'm", "im", "iam"), "i am"),
    **dict.fromkeys(("i've", "ive"), "i have"),
    "i'd": "i would",
    "i'll": "i will",
    "we're": "we are",
    "we've": "we have",
    **dict.fromkeys(("don't", "dont"), "do not"),
    **dict.fromkeys(("can't", "cant"), "cannot"),
}
_FIRST_PERSON: Final = re.compile(r"\b(?:i|me|my|mine|myself|we|us|our|ours|ourselves)\b")

_ADVERB: Final = r"""(?:am|do|can|could|will|would|have\ to|really|truly|just|also|so|very|too|only|still|all|deeply
    |even|sincerely|terribly|incredibly)"""
_ABOUT_THE_READER: Final = re.compile(
    rf"""\b(?:
    # What the writer thinks, says, hears and hopes.
    i\ (?:{_ADVERB}\ )*(?:
        hope(?!\ to\ (?:die|end)) | hear | understand | imagine | believe | think | guess | suppose | wonder | care
        | appreciate | admire | respect | suggest | recommend | encourage | agree | promise | say | mean | bet | doubt
        | sense | offer | send | worry\ about\ you
        | wish(?=\ (?:you|it|this|that|things|the|there|people)\b)
        | wish(?=\ i\ (?:could|can)\ (?:help|do|say|hug|give|be\ there))
        | (?:see|notice|read|get)(?=\ (?:that|it|how|why|what|you|your)\b)
        | feel\ (?:(?:so|very|really|terribly)\ )?(?:for\ you|bad\ for|sorry)
        | know(?=\ (?:it|its|this|you|things|there|life|these|how\ (?:hard|difficult|painful|tough|much))\b)
        | know\ that(?!\ feeling)
        | (?:want|love|like|need)(?=\ you\b)
        | (?:want|love|like|need)(?=\ to\ (?:say|help|hear|know|listen|ask|let|thank|tell|talk|understand|support)\b)
    )\b
    # What the writer can and will do.
    | i\ (?:{_ADVERB}\ )*(?:can|could|will|would|may|might|to|have\ to)\ (?:{_ADVERB}\ )*(?:
        help | do | say | agree | hug\ you | be\ (?:here|there) | listen | ask | tell\ you | talk | support | suggest
        | recommend | try\ to\ (?:help|listen|understand)
    )\b
    # How the writer is, because of the reader.
    | i\ (?:am|was)\ (?:{_ADVERB}\ )*(?:
        sorry | here | glad | proud | listening | rooting | wondering | hoping | sending | curious | pleased | grateful
        | amazed | saddened | thinking\ (?:of|about)\ you | (?:worried|concerned)\ (?:about|for)\ you
        | sad\ (?:to|that|for) | happy\ (?:to|that|for\ you|you) | not\ (?:sure|certain)
        | sure\ (?:it|this|that|you|there) | impressed\ (?:by|with|that)
    )\b
    | i\ (?:cannot|do\ not|did\ not|would\ not|never)\ (?:(?:even|really|fully|only|want\ to)\ )*(?:
        imagine | know | think | understand | believe | want\ you | mean | say | see | judge | blame
    )\b
    # What the reader is asked to do.
    | (?:tell|let|ask|help|forgive|excuse|correct|message|text|pm|dm|give|show|trust|believe|with)\ me\b(?!\ too)
    | (?:talk|speak|vent|write|reach\ out|open\ up|come|listen|sound|sounds|seem|seems|look|looks)\ (?:to|like)\ me\b
    | (?:makes|made|breaks|saddens|hurts|worries|moves|touches)\ me\ (?:(?:so|very|really)\ )?
        (?=(?:sad|sorry|happy|glad|to\ (?:hear|read|see)|that\ you)\b)
    | my\ (?:heart|thoughts|prayers|apologies|condolences|advice|suggestion|best|sympathy|sympathies|dear|inbox|dms?
        |pms?|support|hugs?)\b
    | my\ (?:dear\ )?friend$
    # What holds for everybody.
    | our\ (?:lives|minds|brains|bodies|feelings|emotions|thoughts|society|world|culture)\b
    | we\ (?:all\ (?!are\b)|need|get|should|must|have\ to|live|learn|grow|are\ (?:all\ )?(?:here|listening)
        |can\ (?:talk|chat|listen)|care|hear\ you|love\ you)\b
    | (?:let|tell|with|all\ of|many\ of|most\ of)\ us\b
    )""",
    re.VERBOSE,
)
_PRONOUN_LEFT_OUT: Final = re.compile(
    r"""^(?:(?:and|oh|yeah|yes|yep)\ )?(?:(?:(?:have|just)\ )?been\ there|same\ (?:here|boat|thing|problem)|ditto
    |(?:felt|feel)\ the\ same|(?:went|been)\ through|going\ through\ the\ same|happened\ to)\b""",
    re.VERBOSE,
)


def speaks_of_itself(sentence: str) -> bool:
    """Whether a sentence tells of its writer's life, feelings or person, by rules.

    A sentence with no word of the first person does not, unless it is one of the usual ways of leaving it out ("Been
    there."). English; how often it errs on real responses stands in docs/evaluation.md.
    """
    words = _WORD.findall(sentence.casefold().replace("’", "'"))
    text = " ".join(_CONTRACTIONS.get(word, word) for word in words)
    if _PRONOUN_LEFT_OUT.search(text):
        return True
    return bool(_FIRST_PERSON.search(_ABOUT_THE_READER.sub("", text)))
