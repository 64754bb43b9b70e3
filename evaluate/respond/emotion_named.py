"""The emotion that an answer in plain words names: the first label word in it.

The published rule is unknown; this is the obvious one. Negation is not understood ("not sad
but happy" reads as sad), and an answer that lists the options reads as the first of them. Words for
emotions outside the run's classes count as nothing said.
"""

import re
from collections.abc import Sequence

# Words that stand for a unified label besides the label itself.
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
    """Return the one of `emotions` named first in `answer`, as a whole word in any case; None if none is."""
    words = {word: emotion for emotion in emotions for word in (emotion.lower(), *VARIANTS.get(emotion, ()))}
    match = re.search(rf"\b({'|'.join(map(re.escape, words))})\b", answer.lower())
    return words[match[1]] if match else None
