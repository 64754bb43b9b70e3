"""Clips whose published values no table can hold, or whose file no disk can hold. They are refused, not dropped."""

import os
from dataclasses import replace

from pipeline.corpora.corpus import Clip
from pipeline.corpora.files import escaped
from pipeline.tables.quarantine import Fault

_MAX_NAME_BYTES, _MAX_PATH_BYTES = 255, 4095  # of Linux, and about those of other systems
_ALWAYS_FITS = _MAX_NAME_BYTES // 4  # characters


def refuse_unwritable(clip: Clip, root: str) -> Clip:
    """Return the clip, with a fault if it cannot be written; names that are not UTF-8 are escaped."""
    if len(clip.audio) <= _ALWAYS_FITS and "\0" not in clip.audio and _is_ascii(clip):
        return clip
    texts = (clip.text, clip.speaker, clip.session, clip.dialogue, clip.emotion, clip.intensity)
    if any(not _is_valid(name) for name in (clip.utterance, clip.audio)):
        fault = Fault("bad-name", "expected a name in UTF-8")
        return replace(clip, utterance=escaped(clip.utterance), audio=escaped(clip.audio), fault=fault)
    if "\0" in clip.audio:
        return replace(clip, fault=Fault("bad-name", "expected a name without NUL"))
    longest = max(len(name.encode()) for name in clip.audio.split("/"))
    if longest > _MAX_NAME_BYTES or len(os.fsencode(os.path.join(root, clip.audio))) > _MAX_PATH_BYTES:
        return replace(clip, fault=Fault("bad-name", f"expected a name of at most {_MAX_NAME_BYTES} bytes"))
    invalid = next(
        (value for value in (*texts, *(clip.attributes or {}).values()) if value and not _is_valid(value)), ""
    )
    return replace(clip, fault=Fault("bad-text", f"found {escaped(invalid)}")) if invalid else clip


def _is_ascii(clip: Clip) -> bool:
    """Return whether all values are ASCII, as most are; written out, because it is called for every clip."""
    return (
        clip.utterance.isascii()
        and clip.audio.isascii()
        and clip.speaker.isascii()
        and (clip.text is None or clip.text.isascii())
        and (clip.session is None or clip.session.isascii())
        and (clip.dialogue is None or clip.dialogue.isascii())
        and (clip.emotion is None or clip.emotion.isascii())
        and (clip.intensity is None or clip.intensity.isascii())
        and (clip.attributes is None or all(map(str.isascii, clip.attributes.values())))
    )


def _is_valid(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # it contains bytes that are not UTF-8, or half of a surrogate pair
        return False
    return True
