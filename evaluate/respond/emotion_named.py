"""The emotion that a written answer names: its first label word.

The published rule is unknown; this is the obvious one. It ignores negation: "not sad but happy" counts as sad. An
answer that lists the options counts as the first of them. Words for emotions outside the run's classes are ignored.
"""

import re
from collections.abc import Sequence

# Other words that count as an emotion label, for each label.
VARIANTS = {
    "neutral": ("neutrality",),
    "happy": ("happiness", "happily", "joy", "joyful", "cheerful"),
    "sad": ("sadness", "sadly", "sorrow", "sorrowful"),
    "angry": ("anger", "angrily", "furious"),
    "surprise": ("surprised", "surprising", "astonished", "astonishment"),
    "fear": ("fearful", "afraid", "scared", "frightened"),
    "disgust": ("disgusted", "disgusting"),
    "calm": ("calmness", "calmly"),
}


def label(answer: str, emotions: Sequence[str]) -> str | None:
    """Return the emotion that `answer` names first, as a whole word in any case; None if it names none."""
    words = {word: emotion for emotion in emotions for word in (emotion.lower(), *VARIANTS.get(emotion, ()))}
    match = re.search(rf"\b({'|'.join(map(re.escape, words))})\b", answer.lower())
    return words[match[1]] if match else None
