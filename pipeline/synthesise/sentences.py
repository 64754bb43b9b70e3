"""Short English sentences from a small grammar, for synthetic speech with transcripts."""

import random
import re
from collections.abc import Iterator

# a word in capitals is replaced by a word from its list; sentences have 4 to 12 words
PATTERNS = """
the QUALITY PERSON MOVED PATH the PLACE
the PERSON TOOK the KIND THING TIME
we could hear the PERSON PATH the PLACE
there is another KIND THING behind the PLACE
nobody TOOK the THING before the PERSON came home
my RELATIVE will bring some FOOD LATER
did the PERSON leave the THING near the PLACE?
please put the KIND THING beside the THING
the WEATHER was QUITE heavy when we MOVED PATH the PLACE
TIME the PERSON TOOK NUMBER KIND THINGS
her RELATIVE and the PERSON MOVED PATH the PLACE together
can you find the KIND THING LATER?
they sold NUMBER THINGS and some FOOD
his QUALITY RELATIVE told us about the PLACE
the THING on the table belongs to the QUALITY PERSON
no PERSON in this town has seen the KIND THING
I would rather have some FOOD than NUMBER THINGS
the PLACE looked QUITE empty TIME
where does the PERSON keep the KIND THINGS?
after the WEATHER the PLACE was QUITE cold
my RELATIVE MOVED home slowly
the KIND THING is mine
who left the THING in the PLACE?
her RELATIVE never cared for FOOD
you must not touch the QUALITY PERSON's THING
the PERSON asked for NUMBER THINGS and one KIND THING
""".strip().splitlines()

WORDS = {
    "PERSON": """farmer teacher doctor sailor baker painter singer soldier gardener driver captain lawyer nurse
        writer hunter miller tailor student cook clerk judge dancer pilot shepherd carpenter actor child woman
        stranger neighbour""",
    "RELATIVE": "mother father sister brother uncle aunt cousin grandmother grandfather daughter nephew niece",
    "QUALITY": """old young quiet clever patient lonely gentle proud careful honest nervous cheerful famous lazy
        brave curious polite tired""",
    "MOVED": "walked ran wandered hurried drove rode marched travelled crept danced stumbled sailed",
    "PATH": "along towards across through beyond around past beside",
    "PLACE": """river garden market harbour forest valley church castle bridge station meadow village mountain
        library kitchen orchard island desert theatre factory school lighthouse palace cottage cellar""",
    "TOOK": """carried found lost opened broke cleaned sold borrowed hid painted mended dropped noticed wanted
        remembered stole measured wrapped""",
    "KIND": """red green yellow broken heavy wooden silver golden round narrow dusty empty precious ordinary
        enormous little white purple rusty warm""",
    "THING": """lamp basket chair letter mirror clock ladder bottle hammer blanket candle violin drawer bucket
        pillow hat coat key map knife ring umbrella""",
    "THINGS": "lamps baskets chairs letters mirrors clocks bottles blankets candles buckets pillows coats keys maps",
    "FOOD": "bread butter honey cheese soup coffee sugar pepper rice fruit chocolate cake",
    "NUMBER": "two three four five six seven eight nine ten eleven twelve twenty",
    "TIME": """yesterday today this~morning last~week in~the~evening before~breakfast after~dinner
        on~monday at~midnight in~the~summer long~ago every~sunday""",
    "LATER": "tomorrow tonight next~month before~winter on~friday in~the~afternoon next~year",
    "WEATHER": "rain snow storm wind fog thunder",
    "QUITE": "very quite rather terribly unusually strangely",
}  # fmt: skip

_LISTS = {name: [entry.replace("~", " ") for entry in words.split()] for name, words in WORDS.items()}
_SLOT = re.compile(rf"\b({'|'.join(sorted(WORDS, key=len, reverse=True))})\b")


def sentences(rng: random.Random) -> Iterator[str]:
    """Yield different sentences without end; a statement ends with a full stop, a question with a question mark."""
    seen = set()
    while True:
        sentence = _SLOT.sub(lambda slot: rng.choice(_LISTS[slot[1]]), rng.choice(PATTERNS))
        if sentence not in seen:
            seen.add(sentence)
            yield sentence if sentence.endswith("?") else f"{sentence}."
