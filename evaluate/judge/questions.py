"""What the judge is asked, and how its replies are read.

All texts that it judges stand in quotation marks, as JSON writes them, so that an answer cannot end its own place in
the prompt. A reply is read strictly: the first JSON object in it must have exactly the keys and values asked for.
"""

import json
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field

from pipeline.params import Section
from pipeline.weights.chat_template import without_thoughts

SYSTEM = "You judge the answers of a voice assistant. You are fair and strict, and you reply only in JSON."

_SITUATION = """A person spoke to a voice assistant. The assistant should react to the words and to the emotion in the \
voice.

The person said: {text}
The person sounds {emotion}.
"""

MARKS = (
    _SITUATION
    + """The assistant answered: {answer}

Give the answer two marks, each a whole number from 0 (worst) to 10 (best).
quality: is the answer coherent, correct and useful after these words, whatever the emotion?
empathy: does the answer fit how the person sounds? It gets a low mark if it ignores the emotion, if it reacts to \
another emotion, or if it sees an emotion where there is none.

Reply with one JSON object with the keys "quality" and "empathy"."""
)

PAIR = (
    _SITUATION
    + """Answer A: {first}
Answer B: {second}

Which answer fits better how this person sounds? An answer is worse if it ignores the emotion, if it reacts to another \
emotion, or if it sees an emotion where there is none. The order and the length of the answers do not count.

Reply with one JSON object with the key "choice", whose value is "A", "B" or "tie"."""
)

EMOTION_WORDS = {
    "neutral": "neutral, without a strong emotion",
    "surprise": "surprised",
    "fear": "afraid",
    "disgust": "disgusted",
    "contempt": "contemptuous",
    "boredom": "bored",
    "frustration": "frustrated",
    "enthusiasm": "enthusiastic",
    "other": "emotional in a way that has no name here",
}
"""How a person with an emotion sounds, where that is not the emotion's own name."""


class Marks(Section):
    """A reply to MARKS."""

    quality: Annotated[int, Field(ge=0, le=10)]
    empathy: Annotated[int, Field(ge=0, le=10)]


class Choice(Section):
    """A reply to PAIR."""

    choice: Literal["A", "B", "tie"]


@dataclass(frozen=True, slots=True)
class Question:
    """A question to the judge."""

    said: str
    """The whole user message."""
    form: type[Section]
    """The form of the reply."""
    repeat: int
    """From 1; the same question with another repeat gets another seed."""

    @property
    def json_schema(self) -> str:
        """The form as a JSON schema."""
        return json.dumps(self.form.model_json_schema(), sort_keys=True)


Reply = TypeVar("Reply", bound=Section)


def ask_marks(text: str, emotion: str, answer: str, repeat: int) -> Question:
    """Ask for the marks of an answer."""
    return Question(MARKS.format(**_situation(text, emotion), answer=_quoted(answer)), Marks, repeat)


def ask_pair(text: str, emotion: str, first: str, second: str, repeat: int) -> Question:
    """Ask which of two answers is better."""
    shown = {"first": _quoted(first), "second": _quoted(second)}
    return Question(PAIR.format(**_situation(text, emotion), **shown), Choice, repeat)


def read_reply(reply: str, form: type[Reply]) -> Reply | None:
    """Return the first JSON object of a reply, after its thoughts; None if it has another form, or if there is none."""
    spoken = without_thoughts(reply)
    try:
        found: Any = json.JSONDecoder().raw_decode(spoken, max(spoken.find("{"), 0))[0]
        return form.model_validate(found)
    except (ValueError, RecursionError):
        return None


def _situation(text: str, emotion: str) -> dict[str, str]:
    return {"text": _quoted(text), "emotion": EMOTION_WORDS.get(emotion, emotion)}


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
