"""Which sentences speak of the writer's own life: "I've been through the same", "Been there", "as someone who …".

A peer may say so. From a language model it is false, whoever sends it, and the empathy classifier pays for it: sharing
an experience counts as an interpretation (Sharma et al., EMNLP 2020). A policy that is free to write it writes it to
everybody. Rules, no model, in three steps:

1. A first person that was left out is put back: "Lost a brother last year" is read as "I lost a brother last year".
2. `_CLAIMS` are turns that speak of the writer without a first person: "same here", "as a veteran, …".
3. Every other word of the first person must belong to a phrase of `_ABOUT_THE_READER` ("I'm sorry", "I hope", "tell me
   more"), so that a new way of speaking of oneself is caught without being listed.

The third step is closed, the first two are lists: what they do not list passes. `python -m benchmarks.honesty` says
how often they err.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

_TOKEN: Final = re.compile(r"\w+(?:'\w+)*|[^\w\s']+")
_CONTRACTIONS: Final[Mapping[str, str]] = {
    **dict.fromkeys(("i'm", "im", "iam"), "i am"),
    **dict.fromkeys(("i've", "ive"), "i have"),
    "i'd": "i would",
    "i'll": "i will",
    "we're": "we are",
    "we've": "we have",
    "you've": "you have",
    "you're": "you are",
    **dict.fromkeys(("can't", "cant"), "cannot"),
    **dict.fromkeys(("won't", "wont"), "will not"),
    **{
        form: f"{verb} not"
        for verb in ("do", "did", "have", "had", "was", "is", "are", "could", "would", "should")
        for form in (f"{verb}n't", f"{verb}nt")
    },
}
_FIRST_PERSON: Final = re.compile(r"\b(?:i|me|my|mine|myself|we|us|our|ours|ourselves)\b")
FIRST_PERSON: Final = "first person"
"""Name of the rule that no word of the first person stands outside of the phrases about the reader."""


def _any(*patterns: str) -> re.Pattern[str]:
    """What one of some verbose patterns matches, in whole words."""
    return re.compile(rf"\b(?:{'|'.join(patterns)})", re.VERBOSE)


_ADVERB: Final = r"""(?:am|do|can|could|will|would|have\ to|really|truly|just|also|so|very|too|only|still|all|deeply
    |even|sincerely|terribly|incredibly|simply|honestly|always|fully)"""
_CARER: Final = r"""(?:(?:really|truly|deeply|only)\ )?(?:cares?|listens?|wants?|wishes|hopes|worries|reads?|believes
    |loves\ you|is\ (?:here|listening|reading|rooting)|(?:does|has)\ not|never|has\ never)\b"""
"""What the writer may be in "as someone who …": whoever replies, or one without the experience."""

# --- 1. Subjects that were left out ---

_OPENER: Final = r"""(?:and|but|oh|man|wow|ugh|yeah|yes|yep|yea|yup|hey|dude|well|honestly|basically|personally|tbh|lol|same|god|so
    |sorry\ to\ hear\ (?:that|this|it)|that\ sucks|so\ sorry|i\ (?:hear|feel)\ you|,)"""
_MODIFIER: Final = r"(?:also|still|only|once|never|already|actually|recently|definitely|totally|really|just|literally)"
_PAST: Final = r"""(?:
    went | cried | struggled | survived | stopped | started | hated | dealt | knew | saw | watched | suffered | relapsed
    | attempted | overdosed | experienced | endured | divorced | drank | fought | thought | wanted | moved | learned
    | learnt | failed | spent | buried | dropped\ out | ended\ up | woke\ up | gave\ up | grew\ up | broke\ up
    | hit\ rock | used\ to(?!\ be\ that) | made\ it(?!\ hard) | came\ (?:out|from|close) | fell\ (?:into|apart|for)
    | lived\ (?:with|in|through|like|that|alone|there) | tried(?!\ and\ (?:true|tested)) | felt(?!\ tips?\b)
    | lost\ (?:an?|the|my|both|two|three|one|some|everything|everyone|someone|friends|weight|it)
    | left\ (?:an|home|school|college|him|her|them|that) | found\ (?:an?|my|out|that|it)
    | quit\ .*\b(?:in|last|ago|after|was) | took\ (?:(?:a|many|some|about|over)\ )?(?:\w+\ )?
        (?:years|months|weeks|ages|forever|decades|time|while|pills|meds|medication) | took\ (?:it|them|that)\ for
    | (?:had|was|were)(?!\ (?:to\ be|you|your|it|this|that|he|she|they|there)\b)
    | got(?!\ (?:it|to|any|you|your)\b)
    | am | have\ (?:also\ )?(?:been|felt|had|gone|done|lived|seen|struggled|lost|tried|dealt)
    | (?:did|was|had|have|could)\ not\ (?!you)
    | been(?!\ (?:said|done|shown)\b)
    | diagnosed\ (?:with|at|in|last|as|when)
    | can\ (?=(?:\w+\ )?(?:relate|imagine|confirm|attest|vouch|understand|empathi[sz]e)) | could\ (?=have\b)
    | know\ (?=(?:exactly|just|all\ too|too\ well|someone\ who|somebody\ who|a\ few\ people|the\ feeling|(?:this|that)\ feeling
        |how\ (?:this|that|it|you)\ (?:is|feels?)|what\ (?:it|that|this|you)\ (?:is|feels|are|mean|means)|what\ it's))
    | remember\ (?=(?:that|this|those|being|feeling|when)\b(?!\ (?:you|it)\b)(?!.*\b(?:is|are|will|can|pass)\b))
)\b"""
_AFTER_MODIFIER: Final = r"""(?:struggle|miss|hate|cry|regret|suffer|fit(?=\ (?:in|anywhere))|liked|told|said|made|going|dealing
    |working|recovering|fighting|grieving|(?<=still\ )(?:wake|feel|have|get)|(?<=also\ )have\ (?!you))\b"""
_LEFT_OUT: Final = re.compile(
    rf"""^(?:{_OPENER}\ )*(?:(?:{_MODIFIER}\ )*{_PAST}|(?:also|still|never)\ {_AFTER_MODIFIER})""",
    re.VERBOSE,
)
# "Been through so much, and you still stand" leaves out "you".
_READER_FOLLOWS: Final = re.compile(r"\byour(?:self)?\b|,\ (?:and\ |but\ |so\ |yet\ )?you\b|\bno\ wonder\b|\bwhat\ an?\b")
_LIKE_THE_READER: Final = re.compile(r"\b(?:same|too|also|either|myself|there|here|in your (?:shoes|place|position))\b")

# --- 2. Claims without a first person ---

_PEOPLE: Final = r"""(?:friend|buddy|mate|cousin|colleague|co\ ?worker|classmate|room\ ?mate|flat\ ?mate|neighbou?r|relative
    |guy|girl|woman|man)"""
_PERSON_HERE: Final = r"""(?:survivor|addict|alcoholic|sufferer|veteran|parent|mom|mum|mother|dad|father|student|teacher|nurse
    |introvert|insomniac|widow|widower|smoker|teen|teenager|guy|girl|male|female|man|woman|dropout|loner|patient|user)"""
_NO_PERSON: Final = r"""(?:start|first|second|third|next|last|final|rule|result|reminder|whole|side|bonus|matter|way|form|sign
    |means|consequence|general|starting|beginning|community|society|group|team|suggestion|note|small|simple|tip|test|friend
    |person|people|human|species|backup|reward|treat|gift|compromise|distraction|habit|precaution|thought|child|kid
    |couple|family)\b"""
_ROLE: Final = rf"""(?:(?:someone|somebody|one|a\ person)\ (?:(?:that|who)\ (?!{_CARER})|with\ |in\ |from\ )
    |(?:an?|another|the)\ (?!{_NO_PERSON})(?!person\ who\b))"""

_CLAIMS: Final[Mapping[str, re.Pattern[str]]] = {
    "been there": re.compile(rf"(?:^|,\ )(?:{_OPENER}\ |{_MODIFIER}\ |have\ )*been\ (?:there|where\ you)\b", re.VERBOSE),
    "same here": re.compile(
        rf"""(?:^|,\ )(?:{_OPENER}\ )*(?:(?:the|very|exact|this)\ )*same(?:\ (?:here|boat|with\ me|age|problem|issue|story
        |situation|feeling|for|exact|at\ the\ moment|right\ now|way\ here|thing\ (?:here|happened|happens|with|is))\b|\ \w+\ here\b|$|\ ,|\ as\ you)
        |,\ (?:exact|very)\ same\b|\bditto\b|\b(?:join|welcome\ to)\ the\ club\b""",
        re.VERBOSE,
    ),
    "going through the same": re.compile(
        rf"""^(?:{_OPENER}\ )*(?:(?:also|still)\ )?(?!(?:hop|send|wish|pray|think|root|wonder|listen|tell|ask|look)ing\b)
        (?:\w+ing|stuck|trapped|alone|lost|depressed|anxious)\b
        (?!.*\b(?:you|your|is|are|must|can|will|would|could|sounds?|makes?|takes?|seems?|has|hurts)\b)
        .*\b(?:same|too|as\ well|also|here|right\ now|at\ the\ moment|today|tonight|myself)\b""",
        re.VERBOSE,
    ),
    "relates": re.compile(
        rf"(?:^|,\ )(?:{_OPENER}\ |{_MODIFIER}\ |(?:completely|absolutely|certainly|fully)\ )*(?:relate\b|relating\b|relatable$)|\bso\ relatable\b",
        re.VERBOSE,
    ),
    "hits home": re.compile(
        r"""\bhits?\ (?:\w+\ ){0,3}home\b|\bclose\ to\ home\b|\b(?:this|that|it|which)\ (?:all\ |really\ )?
        (?:sounds\ (?:(?:so|very|all\ too|too|really|painfully)\ )?familiar|rings\ (?:\w+\ )?true)\b""",
        re.VERBOSE,
    ),
    "as someone who": re.compile(
        rf"""(?:^|,\ )(?:{_OPENER}\ )*(?:(?:speaking|talking)\ )?as\ (?!(?:\w+\ ){{1,3}}you\b)(?![^,]*,\ your?\b){_ROLE}
        |\b(?:say|know|tell|understand|get|mean|speak|see)(?:ing)?\ (?:(?:this|that|it|you|how)\ )*as\ {_ROLE}
        |\b(?:take\ it|hear\ it|advice|speaking)\ from\ {_ROLE}
        |\bcoming\ from\ (?:(?:someone|somebody)\ who\ (?!{_CARER})|an?\ (?:fellow|former|\d|recover))""",
        re.VERBOSE,
    ),
    "being one, having been": re.compile(
        r"""^being\ an?\ [^,]*\b(?:too|as\ well|also|myself)\b
        |^having\ (?:been|lost|gone|had|lived|struggled|survived|suffered|dealt|grown)\b(?!.*\byour?\b)""",
        re.VERBOSE,
    ),
    "from experience": re.compile(
        r"""^(?:speaking\ )?from\ (?:(?:personal|hard|painful|bitter|past|own)\ )*experience\b
        |(?<!not\ )(?<!cannot\ )\b(?:speak|speaking|say\ this|know\ (?:this|that|it))\ from\ (?:\w+\ )?experience\b
        |\bpersonal\ experience\b(?!.*\byour\b)|^learn(?:ed|t)\ (?:\w+\ ){1,2}the\ hard\ way\b""",
        re.VERBOSE,
    ),
    "fellow": re.compile(
        rf"""^(?:{_OPENER}\ )*(?:(?:a|another|your)\ )?(?:fellow\ (?!human)|\d\d\ ?(?:m|f|yo)\b|\d\d\ year\ old\b(?!.*\byou\b))
        |^(?:(?!you|there|no|is|was)\w+\ ){{0,4}}{_PERSON_HERE}\ (?:of\ \w+\ )?(?:here|checking\ in)\b""",
        re.VERBOSE,
    ),
    "a friend's life": re.compile(
        rf"""\bhappen(?:s|ed)\ to\ (?:an?|one\ of)\ (?:\w+\ )?{_PEOPLE}\b
        |^(?:{_OPENER}\ )*(?:an?|another)\ (?:(?:close|good|old|dear|young|distant|former|high|school|college)\ )*{_PEOPLE}
        \ (?:(?:from|at|in)\ (?:\w+\ ){{1,2}})?(?:who\ )?(?:just\ |also\ |once\ |recently\ )?
        (?:had|was|went|lost|said|told|did|got|felt|tried|used|died|took|struggled|killed|beat|suffered)\b(?!.*\byour?\b)""",
        re.VERBOSE,
    ),
}
_ASKED: Final = re.compile(r"\?\W*$")

# --- 3. The first person, about the reader ---

_ABOUT_THE_READER: Final[Mapping[str, str]] = {
    "thinks, hears, hopes": rf"""i\ (?:{_ADVERB}\ )*(?:
        hope(?!\ to\ (?:die|end)) | hear(?!\ voices) | understand | imagine | believe | think | guess | suppose | wonder
        | care | appreciate | admire | respect | suggest | recommend | encourage | agree | promise | say | mean | bet
        | doubt | sense | offer | send | pray | trust(?=\ (?:you|that|your)\b) | worry\ about\ you
        | wish(?=\ (?:you|it|this|that|things|the|there|people)\b)
        | wish(?=\ i\ (?:could|can)\ (?:help|do|say|hug|give|be\ there))
        | (?:see|notice|read|get)(?=\ (?:that|it|how|why|what|you|your)\b)
        | feel\ (?:(?:so|very|really|terribly)\ )?(?:for\ you|bad\ for|sorry)
        | hate(?=\ (?:that|how|to\ (?:see|hear|read|think))\b.*\byour?\b)
        | (?:want|love|like|need)(?=\ (?:for\ |it\ if\ )?you\b)
        | (?:want|love|like|need)(?=\ to\ (?:say|help|hear|know|listen|ask|let|thank|tell|talk|understand|support)\b)
        | have\ (?:(?:heard|read)\ (?:that|of|about|how|people|many|some|good)
            | (?:every\ |all\ the\ |so\ much\ )?(?:faith|confidence)\ in\ you | no\ doubt | a\ (?:question|suggestion))
    )\b""",
    "knows": rf"""i\ (?:{_ADVERB}\ )*know(?!.*\btoo\ well\b)(?:
        $ | \ that(?!\ (?:feeling|pain|fear|place|kind|sort)\b)\b
        | (?=\ (?:its|it's|you|things|there|life|these|how\ (?:hard|difficult|painful|tough|much))\b)
        | (?=\ (?:it|this)\b(?!\ (?:feels\ like|feeling|pain|fear|place|from)\b)))""",
    "can and will": rf"""i\ (?:{_ADVERB}\ )*(?:can|could|will|would|may|might|to|have\ to)\ (?:{_ADVERB}\ )*(?:
        help | do | say | agree | hug\ you | listen | ask | tell\ (?!no\ one)(?:you|that) | talk | support | suggest
        | recommend | try\ to\ (?:help|listen|understand) | be\ (?:here|there|lying|happy|glad|honou?red|thinking\ of\ you)
        | keep\ you | stay\ with\ you | (?:not|never)\ (?:judge|blame|tell\ you|ask|pretend|leave\ you)
    )\b""",
    "cannot, does not": r"""i\ (?:cannot|do\ not|did\ not|would\ not|never)\ (?:(?:even|really|fully|only|want\ to|begin\ to)\ )*(?:
        imagine | know | think | understand | believe | want\ you | mean | say | see | judge | blame | promise
        | speak\ (?:from|to)\ (?:\w+\ )?(?:experience|that|this) | (?:fix|undo|change)\ (?:this|that|it|what)
        | take\ (?:the|this|that|your|away)\ .*?(?:away|pain|hurt)
    )\b""",
    "has no such experience": r"""i\ (?:have\ (?:not|never)|never)\ (?:personally\ )?(?:been|gone|lived|had\ to\ go)\ through
        (?:\ (?:this|that|it|what|anything|something)\b)(?!.*\b(?:either|until|before\ (?:last|this))\b)""",
    "is no doctor, is a program": r"""i\ am\ (?:(?:only|just|not|of\ course)\ )*(?:(?:no|an?|your)\ )?(?:
        (?<=\ no\ )(?:doctor|expert|therapist|lawyer|professional) | (?<=not\ a\ )(?:doctor|therapist|lawyer|professional
            |psychologist|psychiatrist|counsell?or) | (?<=not\ an\ )expert
        | ai | bot | (?:chat\ ?bot|computer|machine|(?:computer\ )?program|language\ model)
    )\b""",
    "is sorry, here, glad": rf"""i\ (?:am|was)\ (?:{_ADVERB}\ )*(?:
        sorry | here(?!\ (?:too\ because|for\ the\ same)) | glad | proud | listening | rooting | wondering | hoping | sending
        | curious | pleased | grateful | thankful | amazed | saddened | praying | thinking\ (?:of|about)\ you
        | (?:worried|concerned)\ (?:about|for)\ you | sad\ (?:to|that|for) | happy\ (?:to|that|for\ you|you)
        | not\ (?:entirely\ |quite\ )?(?:sure|certain|saying) | sure\ (?:it|this|that|you|there) | confident\ (?:that|you)
        | impressed\ (?:by|with|that) | (?:willing|ready|free|available)\ to\ (?:talk|listen|help|chat|hear)
    )\b""",
    "asks": r"(?:may|could|can|might|shall|should)\ i\ (?:ask|help|hear|suggest|say|do)\b|do\ i\ understand\ you"
    r"|if\ i\ (?:may|were\ you|was\ you|said|understand)\b",
    "what the reader is to do": r"""(?:tell|ask|forgive|excuse|correct|message|text|pm|dm|give|show|trust|believe)\ me\b(?!\ too)
        | let\ me\b(?!\ (?:down|go)\b) | help\ me\ (?:understand|see|out|get)\b
        | (?:share|shared|sharing|talk|talking|stay|honest|chat|bear|open|speak|sit)\ (?:\w+\ ){0,3}with\ me\b
        | (?:talk|speak|vent|write|reach\ out|open\ up|come|listen|sound|sounds|seem|seems|look|looks|free)\ (?:to|like)\ me\b
        | you\ (?:\w+\ )?(?:tell|told|telling|trust|trusted|trusting|ask|asked|asking|let|want|need|sent|wrote)\ (?:to\ )?me\b
        | (?:hear|hugs?|love|luck|wishes|message|prayers|word|it)\ from\ me\b | with\ me$ | for\ me\ to\ (?:say|ask|judge|know)
    """,
    "moves the writer": r"""(?:makes|made|breaks|saddens|hurts|worries|moves|touches)\ me\ (?:(?:so|very|really)\ )?
        (?=(?:sad|sorry|happy|glad|to\ (?:hear|read|see)|that\ you)\b)""",
    "my": r"""my\ (?:heart\ (?:goes|breaks|aches|hurts|is\ (?:with|heavy|breaking|aching)|really|truly|just)
        | thoughts\ (?:and\ prayers\ )?(?:are|go|will) | prayers | (?:deepest|sincere|sincerest|warmest)\ \w+ | apologies
        | condolences | (?:best\ |only\ )?(?:advice|suggestion|guess) | best(?!\ (?:friends?|mate|buddy|bud|man|years?)\b)
        | sympathy | sympathies | dear | inbox | dms? | pms? | messages | door | support | hugs? | point | question)\b
        | my\ (?:dear\ )?friend$ | in\ my\ (?:humble\ )?(?:opinion|view)\b""",
    "the reader's words": r"""you\ (?:(?:keep|kept|are|were|always)\ )?(?:say|saying|said)\ (?:that\ )?(?:it|this|everything)
        \ (?:is|was)\ (?:all\ |only\ )?my\b""",
    "everybody": r"""our\ (?:own\ )?(?:lives|minds|brains|bodies|feelings|emotions|thoughts|actions|society|world|culture)\b
        | we\ (?:all\ (?!are\b|have\ been|had|went|were)|need|get|should|must|have\ to|live\ in\ a|learn|grow
            |are\ (?:all\ )?(?:here|listening)|(?:can|could|will)\ (?:\w+\ )?(?:talk|chat|listen)|care|hear\ you|love\ you)\b
        | (?:let|tell|trust|trusted|with|all\ of|many\ of|most\ of|none\ of|each\ of|surpris\w+|teach\w*|makes?|keeps?)\ us\b""",
}
_ALLOWED: Final = _any(*_ABOUT_THE_READER.values())
_QUOTED: Final = re.compile(r'(\byou\b[^"“]*)["“][^"“”]*["”]', re.IGNORECASE)


def rule_of(sentence: str) -> str | None:
    """Name of the rule by which a sentence tells of its writer's life, feelings or person; None where none does.

    A question is judged by its words of the first person alone: "Been to a doctor yet?" leaves out "you". English.
    """
    # What the reader was heard to say is the reader's.
    plain = _QUOTED.sub(r"\1", sentence.casefold().replace("’", "'"))
    phrased = " ".join(_CONTRACTIONS.get(token, token if token[0].isalnum() else ",") for token in _TOKEN.findall(plain))
    phrased = re.sub(r"^(?:, )+|(?: ,)+$", "", phrased)
    if not _ASKED.search(sentence):
        for name, pattern in _CLAIMS.items():
            if pattern.search(phrased):
                return name
        phrased = _with_its_subject(phrased)
    words = re.sub(r"(?: ,)+", "", phrased)
    return FIRST_PERSON if _FIRST_PERSON.search(_ALLOWED.sub("", words)) else None


def _with_its_subject(phrased: str) -> str:
    """A sentence whose subject was left out, with "i" at its start; any other as it is."""
    if not _LEFT_OUT.search(phrased) or (_READER_FOLLOWS.search(phrased) and not _LIKE_THE_READER.search(phrased)):
        return phrased
    bare = re.sub(rf"^(?:{_OPENER}\ )+", "", phrased, flags=re.VERBOSE)
    return f"i {bare}"


def speaks_of_itself(sentence: str) -> bool:
    """Whether a sentence tells of its writer's life, feelings or person, by rules (`rule_of`).

    Not all that do are found; how many are on labelled sentences and real responses stands in docs/evaluation.md.
    """
    return rule_of(sentence) is not None
