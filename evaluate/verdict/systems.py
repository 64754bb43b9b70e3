"""The systems in words: what each is given, and how its answer is read."""

CLIP, OTHER_CLIP, SILENCE = "the clip", "another speaker's clip of another emotion", "silence as long as the clip"
TRANSCRIPT, WHISPER, TOLD = "only the transcript", "only Whisper's transcript", "in words, an emotion"
PROMPTED = "in embeddings learnt from text, an emotion"

HEAD, LABEL, WRITTEN, PROBE = "emotion head", "likeliest label", "written answer", "probe of the frozen encoder"

RECOGNITION_ROWS = {
    "head": (CLIP, HEAD),
    "logprob": (CLIP, LABEL),
    "prompted": (CLIP, WRITTEN),
    "probe": (CLIP, PROBE),
    "shuffled_head": (OTHER_CLIP, HEAD),
    "shuffled_logprob": (OTHER_CLIP, LABEL),
    "shuffled_prompted": (OTHER_CLIP, WRITTEN),
    "silence_logprob": (SILENCE, LABEL),
    "transcript_logprob": (TRANSCRIPT, LABEL),
    "transcript_prompted": (TRANSCRIPT, WRITTEN),
    "heard_logprob": (WHISPER, LABEL),
    "heard_prompted": (WHISPER, WRITTEN),
}
"""System of emotion recognition: what is given, and how the answer is read. The order is that of the tables."""

OWN_ROWS = {
    "voice": (CLIP, "after stage 2"),
    "stage1": (CLIP, "before stage 2"),
    "shuffled": (OTHER_CLIP, "after stage 2"),
    "silence": (SILENCE, "after stage 2"),
    "transcript": (TRANSCRIPT, "the language model itself"),
    "heard": (WHISPER, "the language model itself"),
    "told_true": (TOLD, "the true one, with the clip; before stage 2"),
    "told_head": (TOLD, "that of the head, with the clip; before stage 2"),
    "heard_told_head": (TOLD, "that of the head, with Whisper's transcript"),
    "prompted_true": (PROMPTED, "the true one, with the clip; before stage 2"),
    "prompted_head": (PROMPTED, "mixed as the head hears it, with the clip; before stage 2"),
    "prompted_even": (PROMPTED, "all evenly, with the clip; before stage 2"),
    "shuffled_prompted_head": (PROMPTED, "mixed as the head hears it, with another speaker's clip; before stage 2"),
}
"""System of own answers: what is given, and to which model."""
