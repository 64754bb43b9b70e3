"""All readers leave out dot files, take names in other forms, and stop at a folder that cannot be listed."""

import shutil
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.corpora import registry
from pipeline.corpora.corpus import Clip
from pipeline.stage import UserError

# the header of an AppleDouble file, which macOS writes for attributes of the file with the same name
DOUBLE = bytes.fromhex("00051607000200004d6163204f53205820202020202020200002") + b"\xb0" * 60

RATINGS = ",".join(f"Answer.{emotion}" for emotion in ("happiness", "sadness", "anger", "fear", "disgust", "surprise"))
UTTERANCE = "[1.0000 - 3.0000]\tSes01F_impro01_F000\tneu\t[2.5000, 2.5000, 2.5000]\nC-E2:\tNeutral;\t()\n"
SEGMENT = '{"sid": "a", "begin_time": 0.0, "end_time": 0.4, "text_tn": "HELLO", "subsets": ["{XL}"]}'
MELD = "Utterance,Speaker,Emotion,Sentiment,Dialogue_ID,Utterance_ID,Season,Episode\nHi,Ross,joy,positive,0,0,1,1\n"

# of each reader: files with noise, and other files with their text
TREES: dict[str, tuple[list[str], dict[str, str]]] = {
    "aesdd": (["anger/a01 (1).wav", "fear/f01 (2).wav"], {}),
    "cafe": (["Colère/Faible/01-C-1-1.wav", "Neutre/02-N-1-1.wav"], {}),
    "commonvoice": (["clips/v_1.wav"], {"train.tsv": "client_id\tpath\tsentence\tlocale\ns\tv_1.mp3\tYes.\ten\n"}),
    "cremad": (["AudioWAV/1001_IEO_ANG_HI.wav"], {"SentenceFilenames.csv": "Filename\n1001_IEO_ANG_HI\n"}),
    "emodb": (["wav/03a01Fa.wav", "wav/08a01Wa.wav"], {}),
    "esd": (["0011/Angry/0011_000351.wav"], {"0011/0011.txt": "0011_000351\tHello there.\tAngry\n"}),
    "gigaspeech": (
        ["1.wav"],
        {"GigaSpeech.json": f'{{"audios": [{{"path": "1.wav", "aid": "A", "source": "p", "segments": [{SEGMENT}]}}]}}'},
    ),
    "iemocap": (
        ["Session1/sentences/wav/Ses01F_impro01/Ses01F_impro01_F000.wav"],
        {
            "Session1/dialog/EmoEvaluation/Ses01F_impro01.txt": UTTERANCE,
            "Session1/dialog/transcriptions/Ses01F_impro01.txt": "Ses01F_impro01_F000 [001.0000-003.0000]: Hi.\n",
        },
    ),
    "librispeech": (["dev-clean/1/2/1-2-0000.flac"], {"dev-clean/1/2/1-2.trans.txt": "1-2-0000 HELLO\n"}),
    "mead": (["M003/audio/angry/level_1/001.wav", "W009/audio/sad/level_2/002.wav"], {}),
    "meld": (["train_splits/dia0_utt0.wav"], {"train_sent_emo.csv": MELD}),
    "mosei": (
        ["Raw/Audio/Full/WAV_16000/abc.wav"],
        {
            "Raw/Transcript/Segmented/Combined/abc.txt": "abc___0___0.0___0.4___hello this is me\n",
            "Raw/Labels/l.csv": f"Input.VIDEO_ID,Input.CLIP,{RATINGS}\nabc,0,1,0,0,0,0,0\n",
        },
    ),
    "ravdess": (["Actor_01/03-01-06-02-01-01-01.wav", "Actor_02/03-01-06-02-01-01-02.wav"], {}),
    "resd": (["train/x/32_joy_anger_h_1.wav"],
             {"train.csv": "name,path,emotion,Text\n32_joy_anger_h_1,x/32_joy_anger_h_1.wav,anger,Да\n"}),
    "savee": (["AudioData/DC/a01.wav", "AudioData/KL/sa15.wav"], {}),
    "tess": (["OAF_angry/OAF_back_angry.wav", "YAF_sad/YAF_back_sad.wav"], {}),
}  # fmt: skip


@pytest.fixture(params=TREES)
def corpus(request: pytest.FixtureRequest, tmp_path: Path, speak: Callable[..., Path]) -> tuple[str, Path]:
    """The name of a reader, and a small corpus in its layout."""
    sounds, texts = TREES[request.param]
    for name in sounds:
        speak(tmp_path / "c" / name, 1.0)
    for name, text in texts.items():
        (tmp_path / "c" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "c" / name).write_text(text)
    return request.param, tmp_path / "c"


def read(name: str, root: Path) -> list[Clip]:
    return list(registry.load(name).read(root))


def test_every_reader_is_tried() -> None:
    assert set(TREES) == set(registry.names())


def test_a_row_for_each_clip_is_kept(corpus: tuple[str, Path], take_in: Callable[..., Any]) -> None:
    name, root = corpus
    taken = take_in(name, root)
    assert (len(taken.kept), taken.refused) == (len(TREES[name][0]), [])


def test_dot_files_of_macos_beside_every_file_and_folder_change_nothing(
    corpus: tuple[str, Path], take_in: Callable[..., Any]
) -> None:
    name, root = corpus
    before = take_in(name, root)
    for path in list(root.rglob("*")):
        path.with_name(f"._{path.name}").write_bytes(DOUBLE)
        (path.parent / ".DS_Store").write_bytes(DOUBLE)
    shutil.copytree(root, root / "__MACOSX", ignore=lambda _, names: [n for n in names if not n.startswith("._")])
    shutil.copytree(root, root / ".Trashes", ignore=shutil.ignore_patterns(".*"))
    assert take_in(name, root) == before


FOLDERS = {
    "aesdd": "fear", "cafe": "Neutre", "cremad": "AudioWAV", "emodb": "wav", "esd": "Angry", "iemocap": "EmoEvaluation",
    "librispeech": "2", "mead": "level_2", "meld": "train_splits", "mosei": "Combined", "ravdess": "Actor_02",
    "savee": "KL", "tess": "YAF_sad",
}  # fmt: skip


@pytest.mark.parametrize("corpus", FOLDERS, indirect=True)
def test_a_folder_that_cannot_be_listed_stops_with_its_name(
    corpus: tuple[str, Path], close: Callable[[str], None]
) -> None:
    name, root = corpus
    assert read(name, root)
    close(FOLDERS[name])
    with pytest.raises(UserError, match=f"{FOLDERS[name]}: permission denied; expected a folder that can be listed"):
        read(name, root)


def test_the_form_of_accents_and_the_case_of_folders_do_not_matter(tmp_path: Path, speak: Callable[..., Path]) -> None:
    folder = unicodedata.normalize("NFD", "COLÈRE")
    speak(tmp_path / folder / "faible" / "01-C-1-1.wav")
    speak(tmp_path / "actor_01" / "03-01-06-02-01-01-01.WAV")
    speak(tmp_path / "WAV" / "03a01Fa.wav")
    assert "01-C-1-1" in [clip.utterance for clip in read("cafe", tmp_path)]
    assert [clip.audio for clip in read("ravdess", tmp_path)] == ["actor_01/03-01-06-02-01-01-01.WAV"]
    assert [clip.audio for clip in read("emodb", tmp_path)] == ["WAV/03a01Fa.wav"]


def test_audio_in_another_format_is_a_clip_of_a_folder_too(tmp_path: Path, speak: Callable[..., Path]) -> None:
    for actor in (1, 2):
        speak(tmp_path / f"Actor_0{actor}" / f"03-01-06-02-01-01-0{actor}{'.mp3' if actor == 2 else '.wav'}")
    assert len(read("ravdess", tmp_path)) == 2


@pytest.mark.parametrize("corpus", ["resd"], indirect=True)
def test_a_column_with_a_capital_is_read(corpus: tuple[str, Path]) -> None:
    assert [clip.text for clip in read(*corpus)] == ["Да"]
