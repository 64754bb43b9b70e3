"""The model, without training code, file paths or logging.

Dimension letters in shape annotations: b batch, m mel bins, f mel frames, t encoder frames, s speech embeddings,
l sequence positions, n positions that predict a response token, e encoder width, d LLM width, v vocabulary, k emotion
classes, or the k tokens that a stored teacher keeps at each position. A stored teacher is the LLM's most likely tokens
with their log-probabilities, stored when the responses were generated.
"""

from train.model.inputs import Batch, Sequences, TopKTeacher
from train.model.speech_llm import Speech, SpeechLLM

__all__ = ["Batch", "Sequences", "Speech", "SpeechLLM", "TopKTeacher"]
