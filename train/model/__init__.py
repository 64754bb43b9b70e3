"""The model and nothing else: no trainer, no paths, no logging.

Shape suffixes in this package: b batch, m mel bins, f mel frames, t encoder frames, s speech tokens,
l sequence positions, n positions that predict a response token, e encoder width, d LLM width,
k emotion classes, or likeliest tokens of a stored teacher.
"""

from train.model.inputs import Batch, Sequences, TopKTeacher
from train.model.speech_llm import Speech, SpeechLLM

__all__ = ["Batch", "Sequences", "Speech", "SpeechLLM", "TopKTeacher"]
