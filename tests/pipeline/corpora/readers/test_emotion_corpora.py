from collections import Counter
from collections.abc import Iterator
from itertools import islice, product
from pathlib import Path

import pytest

from pipeline.corpora import registry
from pipeline.corpora.corpus import Clip
from pipeline.corpora.readers import esd, tess
from pipeline.stage import UserError
from pipeline.tables.emotions import EMOTIONS
from pipeline.tables.quarantine import Fault

NAMES = ["aesdd", "cafe", "emodb", "esd", "mead", "mosei", "resd", "savee", "tess"]


def plant(root: Path, files: list[str]) -> None:
    """Make empty files."""
    for folder in {Path(file).parent for file in files}:
        (root / folder).mkdir(parents=True, exist_ok=True)
    for file in files:
        (root / file).touch()


def write(path: Path, *lines: str, encoding: str = "utf-8") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding=encoding)


def read(name: str, root: Path) -> list[Clip]:
    return list(registry.load(name).read(root))


CLIPS = {
    "aesdd": [
        Clip(utterance="a01 (1)", audio="anger/a01 (1).wav", text=None, speaker="1", emotion="anger",
             attributes={"utterance": "01"}),
        Clip(utterance="f10 (01)", audio="fear/f10 (01).wav", text=None, speaker="1", emotion="fear",
             attributes={"utterance": "10"}),
        Clip(utterance="s04 (5)b", audio="sadness/s04 (5)b.wav", text=None, speaker="5", emotion="sadness",
             attributes={"utterance": "04"}),
    ],
    "cafe": [
        Clip(utterance="01-C-1-1", audio="Colère/Faible/01-C-1-1.wav", text="Un cheval fou dans mon jardin",
             speaker="01", gender="male", emotion="colère", intensity="faible", attributes={"age": "46"}),
        Clip(utterance="08-D-2-6", audio="D\u201ago\u2013t/Fort/08-D-2-6.wav", text="Six ours aimants domestiqués",
             speaker="08", gender="female", emotion="dégoût", intensity="fort", attributes={"age": "25"}),
        Clip(utterance="12-N-1-2", audio="Neutre/12-N-1-2.wav", text="Deux ânes aigris au pelage brun",
             speaker="12", gender="female", emotion="neutre", attributes={"age": "37"}),
    ],
    "emodb": [
        Clip(utterance="03a01Fa", audio="wav/03a01Fa.wav", text="Der Lappen liegt auf dem Eisschrank.", speaker="03",
             gender="male", emotion="F", attributes={"version": "a", "age": "31"}),
        Clip(utterance="16b10Tb", audio="wav/16b10Tb.wav",
             text="Die wird auf dem Platz sein, wo wir sie immer hinlegen.", speaker="16", gender="female",
             emotion="T", attributes={"version": "b", "age": "31"}),
    ],
    "mead": [
        Clip(utterance="M003_angry_level_1_001", audio="M003/audio/angry/level_1/001.m4a", text=None, speaker="M003",
             gender="male", emotion="angry", intensity="level_1"),
        Clip(utterance="W009_contempt_level_3_030", audio="W009/audio/contempt/level_3/030.m4a", text=None,
             speaker="W009", gender="female", emotion="contempt", intensity="level_3"),
    ],
    "savee": [
        Clip(utterance="DC_a01", audio="ALL/DC_a01.wav", text=None, speaker="DC", gender="male", emotion="a",
             attributes={"sentence": "01"}),
        Clip(utterance="KL_sa15", audio="AudioData/KL/sa15.wav", text=None, speaker="KL", gender="male",
             emotion="sa", attributes={"sentence": "15"}),
        Clip(utterance="JE_su02", audio="JE/su02.wav", text=None, speaker="JE", gender="male", emotion="su",
             attributes={"sentence": "02"}),
    ],
    "tess": [
        Clip(utterance="OAF_back_ps", audio="OAF_Pleasant_surprise/OAF_back_ps.wav", text="Say the word back.",
             speaker="OAF", gender="female", emotion="ps", attributes={"age": "64"}),
        Clip(utterance="OAF_bite_neutral", audio="OAF_neutral/OA_bite_neutral.wav", text="Say the word bite.",
             speaker="OAF", gender="female", emotion="neutral", attributes={"age": "64"}),
        Clip(utterance="YAF_door_sad", audio="YAF_door_sad.wav", text="Say the word door.", speaker="YAF",
             gender="female", emotion="sad", attributes={"age": "26"}),
    ],
}  # fmt: skip


@pytest.mark.parametrize("name", CLIPS)
def test_names_tell_the_facts_of_a_clip(tmp_path: Path, name: str) -> None:
    plant(tmp_path, [clip.audio for clip in CLIPS[name]] + ["ReadMe.txt"])
    assert sorted(read(name, tmp_path), key=lambda clip: clip.audio) == sorted(CLIPS[name], key=lambda clip: clip.audio)


@pytest.mark.parametrize(
    ("name", "file", "utterance"),
    [
        ("aesdd", "anger/x01 (1).wav", "x01 (1)"),
        ("cafe", "Colère/Faible/13-C-1-1.wav", "13-C-1-1"),
        ("emodb", "wav/03c01Fa.wav", "03c01Fa"),
        ("esd", "0001/Angry/0002_000351.wav", "0002_000351"),
        ("esd", "0001/Angry/351.wav", "351"),
        ("mead", "M003/audio/angry/level_1/1.m4a", "M003_angry_level_1_1"),
        ("savee", "AudioData/XX/a01.wav", "a01"),
        ("tess", "OAF_angry/back_angry.wav", "back_angry"),
    ],
)
def test_a_file_with_another_name_is_told_and_stops_nothing(
    tmp_path: Path, name: str, file: str, utterance: str
) -> None:
    plant(tmp_path, [file])
    (clip,) = read(name, tmp_path)
    assert (clip.utterance, clip.audio, clip.emotion) == (utterance, file, None)
    assert clip.fault is not None
    assert clip.fault.reason == "bad-name"


@pytest.mark.parametrize("name", NAMES)
def test_a_folder_without_the_layout_yields_nothing(tmp_path: Path, name: str) -> None:
    plant(tmp_path, ["notes/ReadMe.txt"])
    assert read(name, tmp_path) == []


@pytest.mark.parametrize("name", NAMES)
def test_published_labels_name_unified_emotions(name: str) -> None:
    assert {emotion for emotion in registry.load(name).labels.values() if emotion} <= set(EMOTIONS)


def cafe_files() -> Iterator[str]:
    for actor, sentence in product(range(1, 13), range(1, 7)):
        yield f"CaFE_48k/Neutre/{actor:02d}-N-1-{sentence}.wav"
        for emotion, intensity in product("CDJPST", "12"):
            yield f"CaFE_48k/{emotion}/{intensity}/{actor:02d}-{emotion}-{intensity}-{sentence}.wav"


def emodb_files() -> Iterator[str]:
    speakers = ("03", "08", "09", "10", "11", "12", "13", "14", "15", "16")
    sentences = ("a01", "a02", "a04", "a05", "a07", "b01", "b02", "b03", "b09", "b10")
    for emotion, number in {"W": 127, "L": 81, "E": 46, "A": 69, "F": 71, "T": 62, "N": 79}.items():
        for version, sentence, speaker in islice(product("abc", sentences, speakers), number):
            yield f"wav/{speaker}{sentence}{emotion}{version}.wav"


def savee_files() -> Iterator[str]:
    numbers = {"a": 15, "d": 15, "f": 15, "h": 15, "n": 30, "sa": 15, "su": 15}
    for speaker, (emotion, number) in product(("DC", "JE", "JK", "KL"), numbers.items()):
        yield from (f"AudioData/{speaker}/{emotion}{sentence:02d}.wav" for sentence in range(1, number + 1))


def tess_files() -> Iterator[str]:
    words = [f"{first}{second}" for first, second in product("abcdefghijklmnopqrst", "abcdefghij")]
    yield from (f"{woman}_{word}_{emotion}.wav" for woman, emotion, word in product(tess.AGES, tess.LABELS, words))


@pytest.mark.parametrize(
    ("name", "files"),
    [
        ("cafe", cafe_files()),
        ("emodb", emodb_files()),
        ("savee", savee_files()),
        ("tess", tess_files()),
    ],
    ids=["cafe", "emodb", "savee", "tess"],
)
def test_a_whole_corpus_has_the_published_counts(tmp_path: Path, name: str, files: Iterator[str]) -> None:
    plant(tmp_path, list(files))
    clips = read(name, tmp_path)
    assert not [clip for clip in clips if clip.fault]
    assert len({clip.utterance for clip in clips}) == len(clips)
    assert counts(clips) == registry.load(name).counts


def counts(clips: list[Clip]) -> dict[str, int]:
    keys = Counter(key for clip in clips for key in (clip.emotion, clip.split) if key)
    return {"clips": len(clips), "speakers": len({clip.speaker for clip in clips}), **keys}


def test_two_speakers_of_esd_have_a_tenth_of_the_published_counts(tmp_path: Path) -> None:
    emotions, numbers = list(esd.LABELS), product((10, 11), range(1, 1751))
    plant(tmp_path, [f"{i:04d}/{emotions[(n - 1) // 350]}/{i:04d}_{n:06d}.wav" for i, n in numbers])
    clips = read("esd", tmp_path)
    assert counts(clips) == {key: number // 10 for key, number in esd.CORPUS.counts.items()}
    assert Counter(clip.language for clip in clips) == {"zh": 1750, "en": 1750}


def esd_tree(root: Path, lines: list[str], encoding: str = "utf-8") -> list[Clip]:
    files = ["Angry/0012_000351", "Angry/0012_000371", "Angry/0012_000401", "Sad/test/0012_001051"]
    plant(root, [f"ESD/0012/{file}.wav" for file in files])
    write(root / "ESD/0012/0012.txt", *lines, encoding=encoding)
    return read("esd", root)


def test_esd_takes_splits_from_folders_and_else_from_numbers(tmp_path: Path) -> None:
    clips = esd_tree(tmp_path, [])
    assert [clip.split for clip in clips] == ["dev", "test", "train", "test"]
    assert [clip.emotion for clip in clips] == ["Angry", "Angry", "Angry", "Sad"]
    assert {(clip.speaker, clip.language, clip.gender) for clip in clips} == {("0012", "en", "male")}


def test_esd_reads_transcripts_with_spaces_in_place_of_tabs(tmp_path: Path) -> None:
    lines = ["0012_000351\tThe eggs, I keep.\tAngry", "0012_000371 You are sad.\tAngry", "", "0012_000401\tNo label."]
    texts = [clip.text for clip in esd_tree(tmp_path, lines)]
    assert texts == ["The eggs, I keep.", "You are sad.", "No label.", ""]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "gb18030"])
def test_esd_reads_transcripts_in_each_encoding(tmp_path: Path, encoding: str) -> None:
    plant(tmp_path, ["0004/Angry/0004_000351.wav"])
    write(tmp_path / "0004/0004.txt", "0004_000351\t打远一看，它们的确很是美丽，\t生气", encoding=encoding)  # noqa: RUF001
    (clip,) = read("esd", tmp_path)
    assert (clip.text, clip.language) == ("打远一看，它们的确很是美丽，", "zh")  # noqa: RUF001


def test_esd_tells_a_transcript_in_no_known_encoding(tmp_path: Path) -> None:
    plant(tmp_path, ["0004/Angry/0004_000351.wav"])
    (tmp_path / "0004/0004.txt").write_bytes(b"0004_000351\t\xff\xff")
    with pytest.raises(UserError, match=r"0004\.txt: line 1: expected GB18030 text, found byte 0xff"):
        read("esd", tmp_path)


def test_resd_reads_both_tables_with_dialogue_and_actor(tmp_path: Path) -> None:
    header = "name,path,emotion,text"
    folder, spaced = "neutral_fear_27/27_neutral_fear_n_100", "08_sadness_anger/08_sadness_anger a_010"
    write(tmp_path / "train.csv", header, f'27_neutral_fear_n_100,{folder}.wav,neutral,"Да, конечно"')
    write(tmp_path / "test.csv", header, f"08_sadness_anger a_010,{spaced}.wav,anger,")
    assert read("resd", tmp_path) == [
        Clip(
            utterance="27_neutral_fear_n_100",
            audio=f"train/{folder}.wav",
            text="Да, конечно",
            speaker="27_n",
            dialogue="27",
            emotion="neutral",
            split="train",
        ),
        Clip(
            utterance="08_sadness_anger a_010",
            audio=f"test/{spaced}.wav",
            text="",
            speaker="08_a",
            dialogue="08",
            emotion="anger",
            split="test",
        ),
    ]


def test_resd_without_texts_has_none_and_tells_names_of_another_form(tmp_path: Path) -> None:
    write(tmp_path / "train.csv", "name,path,emotion", "clip7,clip7.wav,anger")
    (clip,) = read("resd", tmp_path)
    assert clip.text is None
    assert clip.fault == Fault("bad-name", "expected 32_happiness_enthusiasm_h_120")


def test_resd_tells_a_missing_column(tmp_path: Path) -> None:
    write(tmp_path / "train.csv", "name,path,text", "a,b,c")
    with pytest.raises(UserError, match=r"train\.csv: line 1: lacks the column emotion; found name, path, text"):
        read("resd", tmp_path)


RATINGS = (
    "Input.VIDEO_ID,Input.CLIP,Answer.anger,Answer.disgust,Answer.fear,Answer.happiness,Answer.sadness,Answer.surprise"
)


def mosei_tree(root: Path, *lines: str, ratings: list[str]) -> list[Clip]:
    write(root / "Raw/Transcript/Segmented/Combined/a_.txt", *lines)
    write(root / "Raw/Labels/5000_batch_raw.csv", RATINGS, *ratings)
    return read("mosei", root)


def test_mosei_reads_sentences_of_long_files(tmp_path: Path) -> None:
    write(
        tmp_path / "cmu_mosei_std_folds.py",
        "standard_train_fold=['b', 'c']",
        "standard_valid_fold=['a_',",
        "'d']",
        "standard_test_fold=[]",
    )
    lines = ["a____0___-0.16___8.025___I said: ___ well ", "a____1___7.814___13___Yes."]
    first, second = mosei_tree(tmp_path, *lines, ratings=["a_,0,0,0,1,3,0,0"])
    assert first == Clip(
        utterance="a__0",
        audio="Raw/Audio/Full/WAV_16000/a_.wav",
        text="I said: ___ well ",
        speaker="a_",
        start_s=0.0,
        duration_s=8.025,
        dialogue="a_",
        turn=0,
        emotion="happiness",
        votes_both={"happiness": 1.0},
        split="dev",
    )
    assert (second.turn, second.start_s, second.duration_s) == (1, 7.814, 13 - 7.814)
    assert (second.emotion, second.votes_both) == (None, None)


@pytest.mark.parametrize(
    ("ratings", "emotion", "votes"),
    [
        (["0,0,0,0,0,0", "0,0,0,0,0,0"], "neutral", {"neutral": 2.0}),
        (["3,0,0,0,0,0", "0,0,0,0,2,0", "0,0,0,0,2,0"], "sadness", {"anger": 1.0, "sadness": 2.0}),
        (["1,0,0,0,1,0", "0,0,0,0,0,0"], "tie", {"anger": 0.5, "sadness": 0.5, "neutral": 1.0}),
        (["1,0,0,0,0,", "0,1,0,0,0,0"], "disgust", {"disgust": 1.0}),
    ],
)
def test_mosei_takes_the_largest_sum_and_shares_votes(
    tmp_path: Path, ratings: list[str], emotion: str, votes: dict[str, float]
) -> None:
    rows = [f"folder/a_,0,{rating}" for rating in ratings]
    (clip,) = mosei_tree(tmp_path, "a____0___0.0___8.025___Yes.", ratings=rows)
    assert (clip.emotion, clip.votes_both) == (emotion, votes)


def test_mosei_sets_aside_a_sentence_that_ends_where_it_starts(tmp_path: Path) -> None:
    (clip,) = mosei_tree(tmp_path, "a____0___3.5___3.5___Yes.", ratings=[])
    assert clip.fault == Fault("too-short", "from 3.5 s to 3.5 s")


def test_mosei_tells_the_line_of_a_broken_transcript(tmp_path: Path) -> None:
    lines = ["a____0___0.0___8.025___Yes.", "", "a____1___8.0"]
    with pytest.raises(
        UserError, match=r"a_\.txt: line 3: expected ID___CLIP___START___END___TEXT, found 'a____1___8\.0'"
    ):
        mosei_tree(tmp_path, *lines, ratings=[])


def test_mosei_tells_a_rating_that_is_no_number(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"raw\.csv: row 2: expected ratings from 0 to 3, found 0, 0, high, 0, 0, 0"):
        mosei_tree(tmp_path, ratings=["a_,0,high,0,0,0,0,0"])


def test_mosei_tells_a_list_of_videos_that_is_cut(tmp_path: Path) -> None:
    write(tmp_path / "cmu_mosei_std_folds.py", "standard_train_fold=['b', 'c']", "standard_valid_fold=['a_',")
    with pytest.raises(UserError, match=r"folds\.py: expected the list standard_valid_fold, found no complete one"):
        read("mosei", tmp_path)
