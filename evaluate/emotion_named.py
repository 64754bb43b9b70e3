"""The emotion that a written answer names: its first label word.

The published rule is unknown; this is the obvious one. It ignores negation: "not sad but happy" counts as sad. An
answer that lists the options counts as the first of them. Words for emotions outside the run's classes are ignored, and
so is what a model thinks before it answers.
"""

import re
import unicodedata
from collections.abc import Sequence

from pipeline.weights.chat_template import without_thoughts

# Other words that count as an emotion label, for each label: English, then simplified and traditional Chinese.
VARIANTS = {
    "neutral": ("neutrality", "中性", "中立"),
    "happy": (
        "happiness", "happily", "joy", "joyful", "cheerful",
        "高兴", "快乐", "开心", "喜悦", "愉快", "愉悦", "欢快", "欢乐", "幸福",
        "高興", "快樂", "開心", "喜悅", "愉悅", "歡快", "歡樂",
    ),
    "sad": (
        "sadness", "sadly", "sorrow", "sorrowful",
        "悲伤", "伤心", "难过", "悲哀", "哀伤", "忧伤", "伤感", "悲痛",
        "悲傷", "傷心", "難過", "哀傷", "憂傷", "傷感",
    ),
    "angry": (
        "anger", "angrily", "furious",
        "生气", "愤怒", "气愤", "恼怒", "发怒", "恼火", "愤慨",
        "生氣", "憤怒", "氣憤", "惱怒", "發怒", "惱火", "憤慨",
    ),
    "surprise": (
        "surprised", "surprising", "astonished", "astonishment",
        "惊讶", "吃惊", "惊奇", "诧异", "震惊", "惊喜", "驚訝", "吃驚", "驚奇", "詫異", "震驚", "驚喜",
    ),
    "fear": (
        "fearful", "afraid", "scared", "frightened",
        "害怕", "恐惧", "惊恐", "恐慌", "惧怕", "恐懼", "驚恐", "懼怕",
    ),
    "disgust": ("disgusted", "disgusting", "厌恶", "恶心", "反感", "讨厌", "厭惡", "噁心", "討厭"),
    "calm": ("calmness", "calmly", "平静", "冷静", "镇定", "平靜", "冷靜", "鎮定"),
}  # fmt: skip

# Only Latin letters and digits belong to an English word: Chinese has no spaces, and Markdown marks words with _.
_NOT_IN_WORD = "(?<![0-9a-zß-ɏ]){}(?![0-9a-zß-ɏ])"
_NOT_NEGATED = "(?<![不没未非無无沒]){}"  # 不高兴 is one word: unhappy


def label(answer: str, emotions: Sequence[str]) -> str | None:
    """Return the emotion that `answer` names first, in any case and width of its letters; None if it names none."""
    words = {word: emotion for emotion in emotions for word in (emotion.lower(), *VARIANTS.get(emotion, ()))}
    western = "|".join(re.escape(word) for word in words if word.isascii())
    eastern = "|".join(word for word in words if not word.isascii()) or r"(?!)"
    pattern = f"{_NOT_IN_WORD.format(f'({western})')}|{_NOT_NEGATED.format(f'({eastern})')}"
    match = re.search(pattern, unicodedata.normalize("NFKC", without_thoughts(answer)).lower())
    return words[match[1] or match[2]] if match else None
