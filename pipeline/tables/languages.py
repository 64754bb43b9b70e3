"""Languages by their ISO 639 codes: two codes are equal if they name one language in two standards.

Corpora write English as en, eng or en-US, and Mandarin as zh, cmn or zh-CN. Manifests have the ISO 639-1 code if there
is one.
"""

import re
from functools import cache

# ISO 639-3's macrolanguages with an ISO 639-1 code, and individual languages of theirs, as listed on
# https://iso639-3.sil.org/code_tables/macrolanguage_mappings. The first one is the usual meaning of the
# macrolanguage, its alias in Unicode's CLDR, https://github.com/unicode-org/cldr (supplementalMetadata.xml).
# Indonesian, id, is left out of Malay's, because both have ISO 639-1 codes and are written differently.
_MEMBERS = {
    "ar": "arb acm acq aeb afb apc apd arq ars ary arz ayl ayn",
    "az": "azj azb",
    "et": "ekk vro",
    "fa": "pes prs",
    "ff": "fuc fub fuf fuh fui fuq fuv",
    "gn": "gug gui gun gnw",
    "ku": "kmr ckb sdh",
    "lv": "lvs ltg",
    "mg": "plt bhr bmm skg tdx xmv xmw",
    "mn": "khk mvf",
    "ms": "zsm zlm bjn",
    "ne": "npi dty",
    "no": "nb nn",
    "or": "ory spv",
    "ps": "pbu pst pbt",
    "qu": "quz quy qub qvz",
    "sq": "als aln aae aat",
    "sw": "swh swc",
    "uz": "uzn uzs",
    "yi": "ydd yih",
    "zh": "cmn cdo cjy cpx czh czo gan hak hsn lzh mnp nan wuu yue",
}
_MACROLANGUAGES = {member: macro for macro, members in _MEMBERS.items() for member in members.split()}
_SAME = {members.split()[0]: macro for macro, members in _MEMBERS.items() if macro != "no"}  # nb has a code
# codes that ISO 639-1 has withdrawn, and two names of one language
_OLD = {"in": "id", "iw": "he", "ji": "yi", "jw": "jv", "mo": "ro", "fil": "tl"}
_TAG = re.compile(r"([a-z]{2,3})(?:[-_.@].*)?", re.IGNORECASE | re.DOTALL)


@cache
def canonical(tag: str) -> str | None:
    """Return the ISO 639-1 code of a language, or its ISO 639-3 code if it has none; None if the tag names no language.

    >>> canonical("eng"), canonical("zh_Hant-TW"), canonical("cmn"), canonical("yue"), canonical("english")
    ('en', 'zh', 'zh', 'yue', None)
    """
    from pycountry import languages

    match = _TAG.fullmatch(tag.strip())
    if match is None:
        return None
    code = _OLD.get(match[1].lower(), match[1].lower())
    found = languages.get(alpha_2=code) or languages.get(alpha_3=code) or languages.get(bibliographic=code)
    if found is None:
        return None
    code = str(getattr(found, "alpha_2", found.alpha_3))
    return _SAME.get(code, code)


@cache
def are_same(first: str, second: str) -> bool:
    """Return whether two codes name one language, or languages of one macrolanguage such as Chinese."""
    return _macrolanguage(first) == _macrolanguage(second)


def _macrolanguage(tag: str) -> str:
    code = canonical(tag) or tag
    return _MACROLANGUAGES.get(code, code)
