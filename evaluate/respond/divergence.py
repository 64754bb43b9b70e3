"""Stage 1 on held-out speech: the KL between the LLM on the transcript and the LLM on the speech.

For each continuation token, the KL is computed, and whether the likeliest token after the speech is the one after the
transcript. There are three conditions: the untrained model, the trained model, and the trained model given a wrong
clip. The wrong clip is another speaker's clip with other words, from the same corpus if possible, and with the most
similar length. The difference between the last two conditions is due to hearing the words.

The LLM is the same before and after training. So one model is in memory, with a copy of the weights before training of
what was trained: the adapter, and perhaps the encoder. A batch is computed under all conditions, with one pass over the
transcripts.
"""

from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from evaluate.asking.finished import FinishedBatches
from evaluate.asking.processes import ask_all, by_length
from evaluate.asking.shuffled_clips import tell_missing, wrong_clips
from evaluate.predictions import CONDITIONS, DIVERGENCE_SCHEMA
from evaluate.respond.clip_embeddings import ClipEmbeddings
from evaluate.respond.params import RespondParams
from pipeline.audio.speech_tokens import num_mel_frames
from pipeline.stage import UserError
from pipeline.tables import parquet
from pipeline.tables.packed import PromptShell, Rows
from pipeline.weights.source import fetch
from train import saved_model
from train.data.dataset import decode
from train.data.log_mel import LogMel
from train.losses import several_kls
from train.model import Sequences, Speech
from train.model.inputs import pad_features, sequences
from train.model.plora import plora_off
from train.model_config import load_config
from train.precision import answering_dtype, autocast, best_device

_ABOUT = ("id", "corpus", "speaker", "text", "num_samples", "num_speech_tokens", "num_response_tokens")


def measure(
    folder: Path, rows: Rows, shell: PromptShell, settings: RespondParams, finished: FinishedBatches
) -> pa.Table:
    """Return the divergence table of the test rows that have a continuation."""
    rows = rows.select(np.flatnonzero(rows.column("num_response_tokens").to_numpy()))
    if len(rows) == 0:
        raise UserError("test split: no row has a continuation; expected at least one")
    about = pa.table({name: rows.column(name) for name in _ABOUT}).to_pylist()
    wrong = wrong_clips(about, ("speaker", "text"), settings.seed, similar="num_samples")
    tell_missing("semantic", about, wrong, "another speaker with other words in the test split")
    lengths = [(row["num_speech_tokens"], row["num_response_tokens"]) for row in about]
    groups = by_length(lengths, settings.batch_size)
    conditions = _Conditions(folder, rows, shell, settings, groups, dict(wrong))

    def ask(batch: list[int]) -> list[dict[str, tuple[float, int]]]:
        found = conditions.divergences(batch)
        for number, of_row in zip(batch, found, strict=True):
            for condition, (kl, _) in of_row.items():
                if not np.isfinite(kl):
                    where = f"respond: {about[number]['id']}: {condition}"
                    raise UserError(f"{where}: found the KL {kl}, expected a finite number")
        return found

    numbers = list(range(len(about)))
    found = ask_all(
        "respond semantic: clips", numbers, settings.batch_size, ask, "clips", lengths=lengths, finished=finished
    )
    table_rows = (
        {key: row[key] for key in ("id", "corpus", "speaker")}
        | dict(zip(("kl", "num_agree"), of_row[condition], strict=True))
        | {"condition": condition, "num_tokens": row["num_response_tokens"]}
        for condition in CONDITIONS
        for row, of_row in zip(about, found, strict=True)
        if condition in of_row
    )
    return parquet.from_rows(table_rows, DIVERGENCE_SCHEMA)


class _Conditions:
    """The model before and after training, and the clips that it is given."""

    def __init__(
        self,
        folder: Path,
        rows: Rows,
        shell: PromptShell,
        settings: RespondParams,
        groups: Sequence[list[int]],
        wrong: dict[int, int],
    ) -> None:
        """`groups` are clips that are encoded together, `wrong` the row whose clip is the wrong one of a row."""
        config, device = load_config(folder), best_device()
        self.rows, self.shell, self.wrong, self.device = rows, shell, wrong, device
        self.log_mel = LogMel(fetch(config.models.encoder), config.pad_to_30s)
        self.model = saved_model.build(config, answering_dtype(settings.precision, device)).to(device)
        self.untrained_adapter = deepcopy(self.model.adapter)
        self.untrained_encoder = deepcopy(self.model.encoder) if config.encoder_trained else None
        saved_model.load_trained(self.model, folder)
        self.model.to(device)
        self.embeddings = ClipEmbeddings(self._encode, groups)

    @torch.no_grad()
    def divergences(self, batch: list[int]) -> list[dict[str, tuple[float, int]]]:
        """Return of rows, by condition, the KL in nats per response token, and for how many the likeliest is equal."""
        wrong = [self.wrong.get(number, number) for number in batch]
        own, others = self.embeddings(batch), self.embeddings(wrong)
        given = {"before": [clip[0] for clip in own], "after": [clip[1] for clip in own]}
        if wrong != batch:
            given["shuffled"] = [clip[1] for clip in others]
        packed_rows = [self.rows[number] for number in batch]
        responses = [row["response_ids"] for row in packed_rows]
        assert self.shell.before_text is not None
        texts = [row["text_ids"] for row in packed_rows]
        teacher = self._states(self._lay_out(self.shell.before_text, texts, responses), None)
        students = []
        for condition, clips in given.items():
            asked = self._lay_out(self.shell.before_speech, [[None] * len(clip) for clip in clips], responses)
            speech = Speech.of([clip.to(self.device) for clip in clips])
            if condition == "before":
                with plora_off(self.model.llm):
                    students.append(self._states(asked, speech))
            else:
                students.append(self._states(asked, speech))
        lengths = [len(ids) for ids in responses]
        kls, agrees = (each.split(lengths, dim=1) for each in several_kls(students, teacher, self.model.output_head))
        found = [
            dict(zip(given, zip(kl.mean(1).tolist(), agree.sum(1).tolist(), strict=True), strict=True))
            for kl, agree in zip(kls, agrees, strict=True)
        ]
        return [
            {name: values for name, values in of_row.items() if name != "shuffled" or number in self.wrong}
            for number, of_row in zip(batch, found, strict=True)
        ]

    def _states(self, asked: Sequences, speech: Speech | None) -> Tensor:
        with autocast(self.model.llm):
            return self.model.response_states(asked, speech)

    def _lay_out(
        self, before: Sequence[int], contents: Sequence[Sequence[int | None]], responses: Sequence[Sequence[int]]
    ) -> Sequences:
        return sequences(before, contents, self.shell.after, responses).to(self.device)

    def _encode(self, numbers: list[int]) -> list[Tensor]:
        """Return the embeddings of clips before and after training [2, s, d], in the type of the LLM's own."""
        clips = [decode(self.rows, self.rows[number], number) for number in numbers]
        features = pad_features([self.log_mel(clip) for clip in clips]).to(self.device)
        num_frames = torch.tensor([num_mel_frames(len(clip)) for clip in clips], device=self.device)
        with autocast(self.model.llm):
            states, lengths = trained = self.model.encode(features, num_frames)
            if self.untrained_encoder is not None:
                states, lengths = self.untrained_encoder(features, num_frames)
            before, num_embeddings = self.untrained_adapter(states, lengths)
            after, _ = self.model.adapter(*trained)
        both = torch.stack([before, after], dim=1).to(self.model.token_embeddings.weight.dtype)
        return [clip[:, :length] for clip, length in zip(both, num_embeddings.tolist(), strict=True)]
