"""The model, without training code, file paths or logging.

Letters of shapes in this package: b batch, m mel bins, f mel frames, t encoder frames, s speech embeddings, l sequence
positions, n positions that predict a response token, e encoder width, d LLM width, v vocabulary, k emotion classes or
likeliest tokens of a stored teacher.
"""

from train.model.inputs import Batch, Sequences, TopKTeacher
from train.model.speech_llm import Speech, SpeechLLM

__all__ = ["Batch", "Sequences", "Speech", "SpeechLLM", "TopKTeacher"]
