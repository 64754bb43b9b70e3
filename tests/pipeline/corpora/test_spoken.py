"""Transcripts hold what is spoken; text_published stays as it was."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.corpora.transcript import normalise, spoken


@pytest.mark.parametrize(
    ("published", "words"),
    [
        ("[LAUGHTER]", ""), ("[BREATHING] I don't know. [LAUGHTER]", "i don't know"), ("++GARBAGE++ What?", "what"),
        ("AS THEY'RE LEAVING <COMMA> CAN WE GO <QUESTIONMARK>", "as they're leaving can we go"), ("<SIL>", ""),
        ("<i>Hello</i> there<br>you &amp; me", "hello there you me"),
        ("it&#39;s &quot;so&quot;&nbsp;good", "it's so good"), ("a &amp;lt;br&amp;gt; b", "a b"),
        ("[[noise] loud] yes", "yes"), ("I see {breath} now", "i see now"),
        ("(laughs) yes (clears throat)", "yes"), ("*sighs* no", "no"), ("（笑）好的", "好的"),
        ("［笑声］ 你好", "你好"),
        ("b'and this is bytes'", "and this is bytes"), ('b"it\'s"', "it's"), (r"b'it\xe2\x80\x99s'", "it's"),
        (r"b'caf\xe9'", "café"), ("b'<br>'", ""), ("<unk> th[is]- then", "th then"),
    ],
)  # fmt: skip
def test_what_nobody_speaks_is_left_out(published: str, words: str) -> None:
    assert normalise(spoken(published)) == words


@pytest.mark.parametrize(
    "published",
    [
        "I like C++ and C++ too", "a < b and c > d", "He (the king) said", "it is *really* good", "AT&T; R&D", "1+1",
        "b'", "b'a' is b'b'", "5 <6 and 7> 5", "I <3 you", "(sight) and (sober)",
    ],
)  # fmt: skip
def test_what_only_resembles_a_tag_is_spoken(published: str) -> None:
    assert normalise(spoken(published)) == normalise(published)


def test_further_tags_are_named_as_whole_words() -> None:
    text = "hola(risas) XXX xxxy, ¿qué? %uh"
    assert normalise(spoken(text, ["(risas)", "xxx", "%uh"])) == "hola xxxy qué"


@pytest.mark.parametrize(
    "text", ["[" * 5000 + "x" + "]" * 5000, "&amp;" * 20_000, "<a" * 20_000, "&#" + "9" * 5000 + ";"]
)
def test_hostile_markup_takes_no_long_time(text: str) -> None:
    spoken(text)


def test_tags_alone_are_no_transcript_and_the_published_text_stays(
    tmp_path: Path, speak: Callable[..., Path], take_in: Callable[..., Any]
) -> None:
    texts = ["Hi <COMMA> you", "[LAUGHTER]", "xxx", "b'well'"]
    rows = [{"audio": f"{i}.wav", "speaker": "a", "text": text} for i, text in enumerate(texts)]
    for row in rows:
        speak(tmp_path / "c" / row["audio"])
    (tmp_path / "c" / "c.jsonl").write_text("\n".join(map(json.dumps, rows)))
    taken = take_in("table", tmp_path / "c", "table: c.jsonl\ntags: [xxx]\n")
    assert taken.column("text") == ["hi you", "well"]
    assert taken.column("text_published") == ["Hi <COMMA> you", "b'well'"]
    assert taken.reasons == {
        "x/1": ("no-transcript", "found only [LAUGHTER]"),
        "x/2": ("no-transcript", "found only xxx"),
    }


def test_a_long_tag_is_no_long_text(tmp_path: Path, speak: Callable[..., Path], take_in: Callable[..., Any]) -> None:
    speak(tmp_path / "c" / "a.wav")
    (tmp_path / "c" / "c.csv").write_text(f"audio,speaker,text\na.wav,a,yes [{'a long remark ' * 9}]\n")
    assert take_in("table", tmp_path / "c", "table: c.csv\n").column("text") == ["yes"]
