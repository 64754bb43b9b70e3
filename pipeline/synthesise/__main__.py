"""Synthesise: make a corpus in LibriSpeech's or CREMA-D's layout with espeak-ng, so that a run needs no download.

Synthetic speech is for trying the pipeline; results on it say little about real voices. The file SYNTHETIC.txt marks
the folder of the corpus. Equal parameters give equal bytes.
"""

import itertools
import random
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import soxr
import typer
from pydantic import Field

from pipeline import params
from pipeline.audio import mono_16k
from pipeline.corpora.readers import cremad
from pipeline.params import ParamsFile, Section
from pipeline.progress import Task
from pipeline.stage import UserError, replace_folder, run_stage, say
from pipeline.synthesise.espeak import Synthesiser, Voice, synthesiser
from pipeline.synthesise.sentences import sentences

MARKER = "SYNTHETIC.txt"
NOTICE = "This corpus is synthetic: espeak-ng speaks every clip. It is no recording of LibriSpeech or CREMA-D.\n"

# espeak-ng's English accents and its voice variants by gender
ACCENTS = ("en-us", "en", "en-gb-scotland", "en-029", "en-gb-x-rp", "en-us-nyc", "en-gb-x-gbcwmd", "en-gb-x-gbclan")
VARIANTS = {"female": ("f1", "f2", "f3", "f4", "f5"), "male": ("m1", "m2", "m3", "m4", "m5", "m6", "m7", "m8")}

# ids that neither published corpus uses
FIRST_READER = 9501
FIRST_ACTOR = 9001

PLAIN_GAIN_DB = -10.0  # leaves room for loud clips below full scale


class SynthesiseParams(Section):
    """A corpus in the section `synthesise`."""

    layout: Literal["librispeech", "cremad"]
    root: str
    """Folder that dvc.yaml passes as --output; the stage itself does not read this value."""
    seed: int
    speakers: Annotated[int, Field(ge=3)]
    utterances_per_speaker: Annotated[int, Field(ge=1)]
    """In CREMA-D's layout, four times the number of sentences: each sentence is said once in each emotion."""


@dataclass(frozen=True, slots=True)
class Manner:
    """How an emotion changes a voice, or how much clips of one emotion vary."""

    pitch: float
    pitch_range: float
    rate_wpm: float
    gain_db: float


MANNERS = {
    "NEU": Manner(pitch=0, pitch_range=-5, rate_wpm=0, gain_db=0),
    "SAD": Manner(pitch=-22, pitch_range=-38, rate_wpm=-32, gain_db=-8),
    "ANG": Manner(pitch=8, pitch_range=20, rate_wpm=60, gain_db=7),
    "HAP": Manner(pitch=35, pitch_range=40, rate_wpm=15, gain_db=2),
}
SPREAD = Manner(pitch=4, pitch_range=7, rate_wpm=9, gain_db=1.2)  # standard deviation over the clips of one manner


@dataclass(frozen=True, slots=True)
class Speaker:
    """A synthetic speaker with a voice and a gender."""

    id: str
    gender: str
    voice: Voice


def speakers(count: int, first_id: int, rng: random.Random) -> list[Speaker]:
    """Make speakers, female and male in turn; they differ so much in pitch and rate that emotions overlap."""
    made = []
    for i in range(count):
        gender = ("female", "male")[i % 2]
        variant = VARIANTS[gender][i // 2 % len(VARIANTS[gender])]
        voice = Voice(
            name=f"{ACCENTS[i % len(ACCENTS)]}+{variant}",
            rate_wpm=round(rng.uniform(112, 140)),
            pitch=round(rng.uniform(38, 58)),
            pitch_range=round(rng.uniform(40, 60)),
        )
        made.append(Speaker(str(first_id + i), gender, voice))
    return made


def speak(engine: Synthesiser, text: str, voice: Voice, manner: Manner, rng: random.Random) -> bytes:
    """Say `text` in a manner, with random variation; return 16 kHz FLAC."""
    changed = replace(
        voice,
        pitch=round(min(max(voice.pitch + manner.pitch + rng.gauss(0, SPREAD.pitch), 0), 99)),
        pitch_range=round(min(max(voice.pitch_range + manner.pitch_range + rng.gauss(0, SPREAD.pitch_range), 0), 99)),
        rate_wpm=round(max(voice.rate_wpm + manner.rate_wpm + rng.gauss(0, SPREAD.rate_wpm), 80)),
    )
    gain_db = PLAIN_GAIN_DB + manner.gain_db + rng.gauss(0, SPREAD.gain_db)
    samples = soxr.resample(engine.say(text, changed), engine.sample_rate_hz, mono_16k.SAMPLE_RATE_HZ, quality="HQ")
    return mono_16k.encode_flac(samples * np.float32(10 ** (gain_db / 20)))


def write_librispeech(root: Path, options: SynthesiseParams, engine: Synthesiser, task: Task) -> None:
    """Write read sentences: a fifth of the speakers are in test and a tenth in dev, at least one in each."""
    rng = random.Random(options.seed)
    texts = sentences(rng)
    num_test, num_dev = max(1, options.speakers // 5), max(1, options.speakers // 10)
    lines = [";ID  |SEX| SUBSET           |MINUTES| NAME"]
    for i, speaker in enumerate(speakers(options.speakers, FIRST_READER, rng)):
        split = "test" if i < num_test else "dev" if i < num_test + num_dev else "train"
        chapter = f"{i + 1}"
        folder = root / f"{split}-synthetic" / speaker.id / chapter
        folder.mkdir(parents=True)
        transcripts, length_s = [], 0.0
        for turn, text in enumerate(itertools.islice(texts, options.utterances_per_speaker)):
            name = f"{speaker.id}-{chapter}-{turn:04d}"
            clip = speak(engine, text, speaker.voice, MANNERS["NEU"], rng)
            (folder / f"{name}.flac").write_bytes(clip)
            task.advance()
            transcripts.append(f"{name} {text[:-1].upper()}\n")
            length_s += len(mono_16k.decode(clip)) / mono_16k.SAMPLE_RATE_HZ
        (folder / f"{speaker.id}-{chapter}.trans.txt").write_text("".join(transcripts))
        subset, sex = f"{split}-synthetic", speaker.gender[0].upper()
        lines.append(f"{speaker.id:<5}| {sex} | {subset:<17}| {length_s / 60:5.2f} | espeak-ng {speaker.voice.name}")
    (root / "SPEAKERS.TXT").write_text("\n".join(lines) + "\n")


def write_cremad(root: Path, options: SynthesiseParams, engine: Synthesiser, task: Task) -> None:
    """Write acted sentences; an actor says each sentence once in each emotion, so words do not show the emotion."""
    num_sentences, rest = divmod(options.utterances_per_speaker, len(MANNERS))
    if rest or not 1 <= num_sentences <= len(cremad.SENTENCES):
        raise UserError(
            f"utterances_per_speaker: found {options.utterances_per_speaker}, expected a multiple of {len(MANNERS)} "
            f"up to {len(MANNERS) * len(cremad.SENTENCES)}"
        )
    rng = random.Random(options.seed)
    folder = root / "AudioWAV"
    folder.mkdir()
    rows = ['"ActorID","Age","Sex","Race","Ethnicity"']
    starts = range(0, options.speakers * num_sentences, num_sentences)
    for actor, start in zip(speakers(options.speakers, FIRST_ACTOR, rng), starts, strict=True):
        codes = itertools.islice(itertools.cycle(cremad.SENTENCES), start, start + num_sentences)
        for code, (emotion, manner) in itertools.product(codes, MANNERS.items()):
            clip = speak(engine, cremad.SENTENCES[code], actor.voice, manner, rng)
            (folder / f"{actor.id}_{code}_{emotion}_XX.flac").write_bytes(clip)
            task.advance()
        rows.append(f'{actor.id},,"{actor.gender.capitalize()}","",""')
    (root / "VideoDemographics.csv").write_text("\n".join(rows) + "\n")


def main(
    name: Annotated[str, typer.Option(help="Which corpus of the section synthesise to make.")],
    output: Annotated[Path, typer.Option(help="Folder to write; an earlier synthetic corpus there is replaced.")],
    params_file: ParamsFile = Path("params.yaml"),
) -> None:
    """Make a synthetic corpus in the on-disk layout of a published one."""
    options = params.load(params_file, f"synthesise.{name}", SynthesiseParams)
    if output.exists() and not (output / MARKER).is_file() and any(output.iterdir()):
        raise UserError(f"{output}: found other files there, expected a new folder or a synthetic corpus to replace")
    write = write_librispeech if options.layout == "librispeech" else write_cremad
    num_clips = options.speakers * options.utterances_per_speaker
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=f".{output.name}.") as folder, synthesiser() as engine:
        corpus = Path(folder) / output.name
        corpus.mkdir()
        with Task(f"synthesise {name}", num_clips, "clips") as task:
            write(corpus, options, engine, task)
        (corpus / MARKER).write_text(NOTICE)
        replace_folder(corpus, output)
    say(f"synthesise: {name}: {num_clips:,} clips, {options.speakers} speakers")


if __name__ == "__main__":
    run_stage(main)
