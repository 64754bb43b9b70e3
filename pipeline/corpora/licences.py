"""Licences that allow passing on the clips of a corpus, and the reasons why other licences do not.

A packed row is a derivative of its corpus: the clip is resampled and encoded again, and the continuation is written
from the transcript. So a licence must allow derivatives. A licence that is not in the table is taken not to allow it.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Licence:
    """A licence that allows passing on derivatives."""

    name: str
    """SPDX id."""
    url: str
    """Its text."""
    hub_id: str
    """Its identifier on the Hugging Face hub."""
    conditions: tuple[str, ...]
    """What who passes the data on must observe."""


_ATTRIBUTION, _SHARE_ALIKE, _NON_COMMERCIAL = "attribution", "share-alike", "non-commercial"
_CONDITIONS = {"by": _ATTRIBUTION, "sa": _SHARE_ALIKE, "nc": _NON_COMMERCIAL}
_OPEN_DATA = "https://opendatacommons.org/licenses"


def _creative_commons() -> Iterator[Licence]:
    for kind in ("by", "by-sa", "by-nc", "by-nc-sa"):
        for version in ("3.0", "4.0"):
            yield Licence(
                name=f"CC-{kind.upper()}-{version}",
                url=f"https://creativecommons.org/licenses/{kind}/{version}/",
                hub_id=f"cc-{kind}-{version}",
                conditions=tuple(_CONDITIONS[letters] for letters in kind.split("-")),
            )


LICENCES = {
    licence.name: licence
    for licence in (
        *_creative_commons(),
        Licence(
            name="CC0-1.0",
            url="https://creativecommons.org/publicdomain/zero/1.0/",
            hub_id="cc0-1.0",
            conditions=(),
        ),
        Licence(name="ODbL-1.0", url=f"{_OPEN_DATA}/odbl/1-0/", hub_id="odbl", conditions=(_ATTRIBUTION, _SHARE_ALIKE)),
        Licence(name="ODC-By-1.0", url=f"{_OPEN_DATA}/by/1-0/", hub_id="odc-by", conditions=(_ATTRIBUTION,)),
        Licence(name="PDDL-1.0", url=f"{_OPEN_DATA}/pddl/1-0/", hub_id="pddl", conditions=()),
        Licence(name="MIT", url="https://opensource.org/license/mit", hub_id="mit", conditions=(_ATTRIBUTION,)),
    )
}
"""SPDX id: the licence."""


def why_refused(name: str | None) -> str | None:
    """Return why a licence does not allow passing on clips and what was made from them; None if it does."""
    if name in LICENCES:
        return None
    if not name:
        return "no licence is stated"
    if re.fullmatch(r"CC-BY-(NC-)?ND-[\d.]+", name):
        return f"{name} allows no derivatives, and clips at 16 kHz and continuations are derivatives"
    if re.match(r"[AL]?GPL-", name):
        return f"{name} is a licence of software, and covers no recordings"
    return f"{name} is not known to allow it"


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """Where the publisher of a corpus states what may be passed on."""

    source: str
    """Web page with the licence or the terms."""
    forbids: str = ""
    """Why its clips may not be passed on although the name of the licence allows it; empty if they may."""


STATEMENTS = {
    "aesdd": Statement(source="http://m3c.web.auth.gr/research/aesdd-speech-emotion-recognition/"),
    "cafe": Statement(source="https://zenodo.org/records/1478765"),
    "commonvoice": Statement(
        source="https://community.mozilladatacollective.com/"
        "faq-why-cant-i-re-host-or-share-common-voice-datasets-that-i-download-from-mdc",
        forbids="the terms of the download forbid copies elsewhere, although the licence is CC0-1.0",
    ),
    "cremad": Statement(source="https://github.com/CheyneyComputerScience/CREMA-D"),
    "emodb": Statement(
        source="http://emodb.bilderbar.info",
        forbids="no page of the publisher is known that states the licence CC0-1.0",
    ),
    "esd": Statement(source="https://hltsingapore.github.io/ESD/"),
    "gigaspeech": Statement(source="https://github.com/SpeechColab/GigaSpeech"),
    "iemocap": Statement(source="https://sail.usc.edu/iemocap/Data_Release_Form_IEMOCAP.pdf"),
    "librispeech": Statement(source="https://www.openslr.org/12"),
    "mead": Statement(source="https://wywu.github.io/projects/MEAD/MEAD.html"),
    "meld": Statement(
        source="https://github.com/declare-lab/MELD",
        forbids="clips and dialogues are from the TV series Friends, which the licence GPL-3.0-only does not cover",
    ),
    "mosei": Statement(source="https://github.com/s3prl/s3prl/issues/487"),  # a word of the publisher
    "ravdess": Statement(source="https://zenodo.org/records/1188976"),
    "resd": Statement(source="https://huggingface.co/datasets/Aniemore/resd_annotated"),
    "savee": Statement(source="http://kahlan.eps.surrey.ac.uk/savee/"),
    "tess": Statement(source="https://doi.org/10.5683/SP2/E8H2MF"),
}
"""Reader of a published corpus: its statement, looked up on 2026-11-27. The licences are in the readers themselves.

The statements are not in the readers, so that a change of them does not make every ingested corpus stale.
"""
