"""Whisper's transcripts of test clips, which the stage transcribe has written."""

from collections.abc import Sequence
from pathlib import Path

import pyarrow.compute as pc

from evaluate.predictions import read_transcripts
from pipeline.stage import say


def read_whisper_texts(path: Path, ids: Sequence[str]) -> dict[str, str] | None:
    """Return Whisper's transcripts of emotional test clips by id; None, with a line, if not all clips have one."""
    table = read_transcripts(path)
    table = table.filter(pc.equal(table["kind"], "emotion"))
    whisper_texts = dict(zip(table["id"].to_pylist(), table["heard"].to_pylist(), strict=True))
    if num_missing := len(set(ids) - whisper_texts.keys()):
        found = f"found no transcript of {num_missing:,} of {len(ids):,} test clips"
        expected = "expected one of each (transcribe.clips: null)"
        say(f"respond: emotion: {path}: {found}, {expected}; the systems with Whisper's transcript are left out")
        return None
    return whisper_texts
