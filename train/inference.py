"""Ask a trained model for written answers and for log-probabilities of labels, with or without speech."""

from collections.abc import Sequence
from itertools import takewhile

import torch
from torch import Tensor
from transformers import GenerationConfig

from pipeline.audio.speech_tokens import num_speech_tokens
from pipeline.prompts import Prompter, PromptIds
from train.model import Speech, SpeechLLM
from train.model.inputs import pad_features, sequences
from train.precision import autocast


class Clip:
    """The log-mel features of a clip."""

    def __init__(self, features: Tensor, num_frames: int) -> None:
        self.features = features
        # Mel frames of the clip without padding; `features` has more if it is padded to 30 s.
        self.num_frames = num_frames


class Answering:
    """Asks a model in batches, on its device and with the precision of its training; decoding is greedy."""

    def __init__(self, model: SpeechLLM, prompter: Prompter, max_new_tokens: int) -> None:
        self.model = model
        self.device = model.token_embeddings.weight.device
        self.prompter = prompter
        self.greedy = GenerationConfig(
            do_sample=False,
            max_new_tokens=max_new_tokens,
            eos_token_id=list(prompter.end_ids),
            pad_token_id=prompter.end_id,
        )

    def encode_speech(self, clips: Sequence[Clip]) -> Speech:
        """Return the speech embeddings of clips."""
        features = pad_features([clip.features for clip in clips]).to(self.device)
        num_frames = torch.tensor([clip.num_frames for clip in clips], device=self.device)
        with autocast(self.model.llm):
            return self.model.encode_speech(features, num_frames)

    def emotion_scores(self, clips: Sequence[Clip]) -> list[list[float]]:
        """Return the emotion head's log-probability of each class, one list per clip."""
        with autocast(self.model.llm):
            logits = self.model.head(self.encode_speech(clips).pooled())
        return torch.log_softmax(logits.double(), dim=-1).tolist()

    def write(self, prompts: Sequence[PromptIds], clips: Sequence[Clip] | None) -> list[str]:
        """Return the answers to prompts; if clips are given, each clip replaces the content of its prompt."""
        contents, speech = self._contents(prompts, clips)
        asked = sequences(prompts[0].before, contents, prompts[0].after, [[]] * len(prompts)).padded_left()
        asked = asked.to(self.device)
        mask = self.model.lora_mask(asked, speech)
        with autocast(self.model.llm), self.model.speech_mask.applied(mask, generating=True):
            written = self.model.llm.generate(  # type: ignore[operator]
                inputs_embeds=self.model.embed(asked, speech),
                attention_mask=asked.attended.long(),
                generation_config=self.greedy,
            )
        ends = set(self.prompter.end_ids)
        answers = [list(takewhile(lambda token: token not in ends, ids)) for ids in written.tolist()]
        return [self.prompter.answer(ids) for ids in answers]

    def label_scores(
        self, prompts: Sequence[PromptIds], clips: Sequence[Clip] | None, labels: Sequence[str]
    ) -> list[list[float]]:
        """Return the log-probability that the answer starts with each label, one list per prompt."""
        contents, speech = self._contents(prompts, clips)
        # In bfloat16, logits near 20 are rounded to multiples of 1/8, so two labels whose scores differ by less than
        # 1/8 could get the same score.
        head = self.model.output_head.float()
        scores = []
        for label in labels:
            ids = self.prompter.answer_ids(label)
            asked = sequences(prompts[0].before, contents, prompts[0].after, [ids] * len(prompts))
            with autocast(self.model.llm):
                hidden = self.model.response_states(asked.to(self.device), speech)
            log_p = torch.log_softmax(head.logits(hidden.float()), dim=-1)
            targets = torch.tensor(ids, device=self.device).repeat(len(prompts))
            scores.append(log_p.gather(1, targets[:, None]).view(len(prompts), len(ids)).sum(1))
        return torch.stack(scores, dim=1).tolist()

    def _contents(
        self, prompts: Sequence[PromptIds], clips: Sequence[Clip] | None
    ) -> tuple[list[Sequence[int | None]], Speech | None]:
        """Return the contents of the prompts: transcripts, or placeholders together with the speech."""
        if clips is None:
            return [prompt.content for prompt in prompts], None
        return [[None] * num_speech_tokens(clip.num_frames) for clip in clips], self.encode_speech(clips)
