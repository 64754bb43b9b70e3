import itertools
import random
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pipeline.audio import mono_16k
from pipeline.corpora.readers import cremad
from pipeline.ingest import __main__ as ingest
from pipeline.stage import UserError
from pipeline.synthesise import __main__ as synthesise
from pipeline.synthesise.espeak import Voice, synthesiser
from pipeline.synthesise.sentences import WORDS, sentences
from pipeline.tables import manifest, quarantine

PARAMS = """
synthesise:
  reading: {layout: librispeech, root: r, seed: 1, speakers: 3, utterances_per_speaker: 2}
  acting: {layout: cremad, root: a, seed: 1, speakers: 3, utterances_per_speaker: 8}
  uneven: {layout: cremad, root: a, seed: 1, speakers: 3, utterances_per_speaker: 6}
  loud: {layout: opera, root: a, seed: 1, speakers: 3, utterances_per_speaker: 6}
"""


def make(folder: Path, name: str, output: str = "corpus") -> Path:
    (folder / "params.yaml").write_text(PARAMS)
    synthesise.main(name, folder / output, folder / "params.yaml")
    return folder / output


def take_in(root: Path, reader: str) -> pa.Table:
    output = root.parent / "manifest.parquet"
    ingest.main(reader, root, output, check="samples")
    assert quarantine.read(quarantine.beside(output)).num_rows == 0
    return manifest.read(output)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_synthetic_librispeech_is_read_as_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = make(tmp_path, "reading")
    assert "synthesise: reading: 6 clips, 3 speakers\n" in capsys.readouterr().out
    usable = take_in(root, "librispeech")
    assert usable.num_rows == 6
    assert Counter(usable["split"].to_pylist()) == {"train": 2, "dev": 2, "test": 2}
    assert set(usable["gender"].to_pylist()) == {"female", "male"}
    assert set(usable["sample_rate_hz"].to_pylist()) == {16_000}
    assert all(text.isupper() for text in usable["text_published"].to_pylist())
    assert "synthetic" in (root / "SYNTHETIC.txt").read_text()


def test_in_a_synthetic_cremad_the_words_tell_no_emotion(tmp_path: Path) -> None:
    usable = take_in(make(tmp_path, "acting"), "cremad")
    assert usable.num_rows == 24
    emotions = defaultdict(set)
    for row in usable.to_pylist():
        emotions[row["speaker"], row["text"]].add(row["emotion"])
        assert row["gender"] is not None
    assert len(emotions) == 6
    assert all(said == {"neutral", "sad", "angry", "happy"} for said in emotions.values())
    assert {text for _, text in emotions} == {
        s.lower().strip(".") for s in itertools.islice(cremad.SENTENCES.values(), 6)
    }


@pytest.mark.parametrize("name", ["reading", "acting"])
def test_equal_parameters_give_equal_bytes_also_in_place_of_an_earlier_corpus(name: str, tmp_path: Path) -> None:
    first = contents(make(tmp_path, name))
    assert len(first) > 6
    assert contents(make(tmp_path, name)) == first
    assert contents(make(tmp_path, name, "other")) == first


def test_a_folder_with_other_files_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "thesis.txt").write_text("dear")
    with pytest.raises(UserError, match="corpus: found other files there, expected a new folder or a synthetic corpus"):
        make(tmp_path, "reading")
    assert contents(tmp_path / "corpus") == {"thesis.txt": b"dear"}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("uneven", "utterances_per_speaker: found 6, expected a multiple of 4 up to 48"),
        ("loud", "synthesise.loud.layout: expected 'librispeech' or 'cremad', found 'opera'"),
        ("none", "section synthesise.none is missing"),
    ],
)
def test_a_corpus_that_cannot_be_made_is_told(name: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        make(tmp_path, name)
    assert [path.name for path in tmp_path.iterdir()] == ["params.yaml"]


def test_an_angry_manner_is_faster_and_louder_than_a_sad_one() -> None:
    voice = Voice(name="en-us+m1", rate_wpm=140, pitch=50, pitch_range=50)
    clips = {}
    with synthesiser() as engine:
        for emotion in ("ANG", "SAD"):
            manner = synthesise.MANNERS[emotion]
            clip = synthesise.speak(engine, "The surface is slick.", voice, manner, random.Random(0))
            clips[emotion] = mono_16k.decode(clip)
    assert len(clips["SAD"]) > 1.3 * len(clips["ANG"])
    assert np.std(clips["ANG"]) > 2 * np.std(clips["SAD"])


def test_the_library_has_every_voice() -> None:
    import espeakng_loader

    variants = Path(espeakng_loader.get_data_path()) / "voices" / "!v"
    for variant in itertools.chain(*synthesise.VARIANTS.values()):
        assert (variants / variant).is_file()
    with synthesiser() as engine:
        spoken = {
            accent: engine.say("I can't dance.", Voice(name=accent, rate_wpm=140, pitch=50, pitch_range=50))
            for accent in synthesise.ACCENTS
        }
    assert len({samples.tobytes() for samples in spoken.values()}) == len(synthesise.ACCENTS)


def test_no_clip_is_clipped() -> None:
    loudest_db = synthesise.PLAIN_GAIN_DB + max(manner.gain_db for manner in synthesise.MANNERS.values())
    assert loudest_db + 2 * synthesise.SPREAD.gain_db <= 0


def test_sentences_are_short_varied_and_never_the_same() -> None:
    made = list(itertools.islice(sentences(random.Random(0)), 2000))
    assert len(set(made)) == 2000
    lengths = {len(sentence.split()) for sentence in made}
    assert 4 <= min(lengths) <= 5
    assert 11 <= max(lengths) <= 12
    words = {word for sentence in made for word in sentence[:-1].split()}
    assert len(words) > 250
    assert not words & WORDS.keys()
