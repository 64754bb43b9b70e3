import gzip
import json
from collections import Counter, defaultdict
from itertools import count, cycle
from pathlib import Path

import pytest

from pipeline.corpora.corpus import Clip
from pipeline.corpora.readers.iemocap import CORPUS
from pipeline.stage import UserError

EVALUATION = """% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]

[6.2901 - 8.2357]\tSes01F_impro01_F000\tneu\t[2.5000, 2.0000, 3.5000]
C-E2:\tNeutral;\t()
C-E3:\tNeutral; Anger;\t(guarded; tense)
C-E4:\tNeutral;\t()
C-F1:\tFrustration;\t(curious)
A-E3:\tval 3; act 2; dom  2;\t()
A-F1:\tval 3; act 2; dom  1;\t()

[16.8500 - 18.9000]\tSes01F_impro01_F001\txxx\t[2.5000, 2.5000, 2.5000]
C-E2:\tAnger;\t()
C-E3:\tFrustration;\t()
C-E4:\tNeutral state;\t()

[7.5712 - 10.4750]\tSes01F_impro01_M000\texc\t[4.0000, 3.5000, 2.5000]
C-E2:\tExcited;\t()
C-M1:\tHappiness;\t()

"""
TRANSCRIPT = """Ses01F_impro01_F000 [006.2901-008.2357]: Excuse me.
M: Yeah.
Ses01F_impro01_M000 [007.5712-010.4750]: Do you have your forms? [LAUGHTER]
Ses01F_impro01_MXX0 [011.1000-011.9000]: Hm.
"""


def write_dialogue(root: Path, dialogue: str, evaluation: str, transcript: str) -> Path:
    folder = root / f"Session{dialogue[4]}" / "dialog"
    for kind, text in (("EmoEvaluation", evaluation), ("transcriptions", transcript)):
        (folder / kind).mkdir(parents=True, exist_ok=True)
        (folder / kind / f"{dialogue}.txt").write_text(text, encoding="latin-1")
    return folder / "EmoEvaluation" / f"{dialogue}.txt"


@pytest.fixture
def index(tmp_path: Path) -> Path:
    """The index of the one dialogue in `tmp_path`."""
    return write_dialogue(tmp_path, "Ses01F_impro01", EVALUATION, TRANSCRIPT)


def read(root: Path) -> dict[str, Clip]:
    clips = list(CORPUS.read(root))
    assert len({clip.utterance for clip in clips}) == len(clips)
    return {clip.utterance: clip for clip in clips}


@pytest.mark.usefixtures("index")
def test_an_utterance_has_its_audio_text_and_emotion(tmp_path: Path) -> None:
    clip = read(tmp_path)["Ses01F_impro01_F000"]
    assert clip.audio == "Session1/sentences/wav/Ses01F_impro01/Ses01F_impro01_F000.wav"
    assert (clip.text, clip.emotion, clip.fault) == ("Excuse me.", "neu", None)
    assert (clip.session, clip.dialogue) == ("Ses01", "Ses01F_impro01")
    assert clip.attributes == {"style": "impro", "valence": "2.5000", "activation": "2.0000", "dominance": "3.5000"}
    assert (clip.votes, clip.votes_face, clip.split) == (None, None, None)


@pytest.mark.usefixtures("index")
def test_the_speaker_is_who_talks_and_not_who_wears_the_markers(tmp_path: Path) -> None:
    clips = read(tmp_path)
    assert (clips["Ses01F_impro01_F000"].speaker, clips["Ses01F_impro01_F000"].gender) == ("Ses01F", "female")
    assert (clips["Ses01F_impro01_M000"].speaker, clips["Ses01F_impro01_M000"].gender) == ("Ses01M", "male")


@pytest.mark.usefixtures("index")
def test_turns_follow_time_over_both_speakers(tmp_path: Path) -> None:
    turns = {clip.utterance: clip.turn for clip in CORPUS.read(tmp_path)}
    assert turns == {"Ses01F_impro01_F000": 0, "Ses01F_impro01_M000": 1, "Ses01F_impro01_F001": 2}
    assert list(turns.values()) == [0, 1, 2]


@pytest.mark.usefixtures("index")
def test_only_evaluators_vote_and_several_labels_share_a_vote(tmp_path: Path) -> None:
    clips = read(tmp_path)
    assert clips["Ses01F_impro01_F000"].votes_both == {"Neutral": 2.5, "Anger": 0.5}
    assert clips["Ses01F_impro01_F001"].votes_both == {"Anger": 1, "Frustration": 1, "Neutral state": 1}
    assert clips["Ses01F_impro01_M000"].votes_both == {"Excited": 1}
    assert all(clip.votes_both and set(clip.votes_both) <= set(CORPUS.labels) for clip in clips.values())


def test_an_utterance_whose_evaluators_gave_nothing_has_no_votes(tmp_path: Path) -> None:
    head = "[1.0000 - 2.0000]\tSes02M_script01_1b_M007\toth\t[-1.0000, 3.0000, 3.0000]\n"
    write_dialogue(tmp_path, "Ses02M_script01_1b", head + "C-E1:\t;\t()\n", "")
    clip = read(tmp_path)["Ses02M_script01_1b_M007"]
    assert clip.votes_both is None
    assert (clip.dialogue, clip.speaker) == ("Ses02M_script01_1b", "Ses02M")
    assert clip.attributes is not None
    assert (clip.attributes["style"], clip.attributes["valence"]) == ("script", "-1.0000")


def test_an_utterance_without_a_transcript_line_has_an_empty_one(index: Path, tmp_path: Path) -> None:
    assert read(tmp_path)["Ses01F_impro01_F001"].text == ""
    assert read(tmp_path)["Ses01F_impro01_M000"].text == "Do you have your forms? [LAUGHTER]"
    (index.parents[1] / "transcriptions" / index.name).unlink()
    assert {clip.text for clip in read(tmp_path).values()} == {""}


def test_an_empty_transcript_does_not_take_the_next_line(index: Path, tmp_path: Path) -> None:
    text = "Ses01F_impro01_F000 [006.2901-008.2357]:\nSes01F_impro01_M000 [007.5712-010.4750]: Do you?\n"
    (index.parents[1] / "transcriptions" / index.name).write_text(text)
    clips = read(tmp_path)
    assert (clips["Ses01F_impro01_F000"].text, clips["Ses01F_impro01_M000"].text) == ("", "Do you?")


def test_hidden_files_and_folders_beside_the_index_are_passed_over(index: Path, tmp_path: Path) -> None:
    (index.parent / f"._{index.name}").write_bytes(b"\x00\x05\x16\x07")
    (index.parent / ".DS_Store").touch()
    (index.parent / "Categorical").mkdir()
    (index.parent / "Categorical" / "Ses01F_impro01_e2_cat.txt").write_text("Ses01F_impro01_F000 :Neutral state; ()\n")
    assert len(read(tmp_path)) == 3


def test_the_folder_of_the_archive_may_lie_around_the_sessions(tmp_path: Path) -> None:
    write_dialogue(tmp_path / "IEMOCAP_full_release", "Ses01F_impro01", EVALUATION, TRANSCRIPT)
    clip = read(tmp_path)["Ses01F_impro01_F000"]
    assert clip.audio == "IEMOCAP_full_release/Session1/sentences/wav/Ses01F_impro01/Ses01F_impro01_F000.wav"
    assert clip.text == "Excuse me."


def test_latin_1_and_windows_line_ends_are_read(index: Path, tmp_path: Path) -> None:
    text = EVALUATION.replace("(curious)", "(blas\xe9\x85 really)")  # a Windows ellipsis
    index.write_bytes(text.replace("\n", "\r\n").encode("latin-1"))
    transcript = TRANSCRIPT.replace("Excuse me.", "A caf\xe9\x85 here?")
    (index.parents[1] / "transcriptions" / index.name).write_bytes(transcript.replace("\n", "\r\n").encode("latin-1"))
    clips = read(tmp_path)
    assert clips["Ses01F_impro01_F000"].text == "A caf\xe9\x85 here?"
    assert clips["Ses01F_impro01_F000"].votes_both == {"Neutral": 2.5, "Anger": 0.5}
    assert len(clips) == 3


@pytest.mark.parametrize(
    ("published", "cut"),
    [
        ("[2.5000, 2.0000, 3.5000]", "[2.5000, 2.0"),
        ("[6.2901 - 8.2357]", "[6.2901]"),
        ("Ses01F_impro01_F000", "Ses01F_impro01"),
        ("\tneu\t", "\t"),
    ],
)
def test_a_malformed_utterance_is_told_with_its_line(index: Path, tmp_path: Path, published: str, cut: str) -> None:
    index.write_text(EVALUATION.replace(published, cut, 1))
    message = r"Ses01F_impro01\.txt: line 3: expected an utterance or an evaluator's line, found \[6\.2901"
    with pytest.raises(UserError, match=message):
        read(tmp_path)


def test_a_line_that_is_neither_is_told(index: Path, tmp_path: Path) -> None:
    index.write_text(EVALUATION.replace("C-E4:\tNeutral;", "Neutral;", 1))
    with pytest.raises(UserError, match=r"line 6: expected an utterance or an evaluator's line, found Neutral;"):
        read(tmp_path)


def test_votes_above_the_first_utterance_are_told(index: Path, tmp_path: Path) -> None:
    index.write_text("C-E2:\tNeutral;\t()\n" + EVALUATION)
    with pytest.raises(UserError, match=r"line 1: expected an utterance or an evaluator's line, found C-E2"):
        read(tmp_path)


def test_another_layout_gives_nothing(tmp_path: Path) -> None:
    assert read(tmp_path) == {}


def test_each_fold_tests_on_the_two_speakers_of_a_session() -> None:
    assert list(CORPUS.folds) == [f"session-{number}" for number in range(1, 6)]
    assert CORPUS.folds["session-5"] == ("Ses05F", "Ses05M")


# what evaluators call the published labels
FULL_NAMES = {
    "neu": "Neutral", "hap": "Happiness", "exc": "Excited", "sad": "Sadness", "ang": "Anger", "sur": "Surprise",
    "fea": "Fear", "dis": "Disgust", "fru": "Frustration", "oth": "Other",
}  # fmt: skip


def emobox(shared: Path, name: str) -> dict[str, str]:
    """EmoBox' labels by utterance: the published ones of the four classes."""
    lines = gzip.decompress((shared / "data" / "EmoBox" / "iemocap" / name).read_bytes()).splitlines()
    return {row["key"].removeprefix("iemocap-"): row["emo"] for row in map(json.loads, lines)}


def evaluation_of(start_s: float, utterance: str, emotion: str) -> str:
    names = [FULL_NAMES[emotion]] * 3 if emotion != "xxx" else ["Anger", "Sadness", "Neutral; Surprise"]
    votes = "".join(f"C-E{number}:\t{name};\t()\n" for number, name in enumerate(names, start=1))
    times = f"[{start_s:.4f} - {start_s + 2:.4f}]"
    return f"{times}\t{utterance}\t{emotion}\t[2.5000, 2.5000, 2.5000]\n{votes}C-F1:\tOther;\t()\nA-E1:\tval 3;\t()\n\n"


@pytest.fixture
def published(shared: Path, tmp_path: Path) -> Path:
    """A tree of published size: EmoBox' utterances with their labels, and made-up ones of all other labels."""
    labels = emobox(shared, "iemocap.jsonl.gz")
    dialogues = sorted({utterance.rpartition("_")[0] for utterance in labels})
    names = (f"{dialogue}_F{number}" for number in count(500) for dialogue in dialogues)
    for emotion in ("fru", "xxx", "sur", "fea", "oth", "dis"):
        labels |= {next(names): emotion for _ in range(CORPUS.counts[emotion])}
    evaluations, transcripts = defaultdict(list), defaultdict(list)
    for (utterance, emotion), seconds in zip(sorted(labels.items()), cycle(range(900)), strict=False):
        dialogue = utterance.rpartition("_")[0]
        evaluations[dialogue].append(evaluation_of(seconds, utterance, emotion))
        transcripts[dialogue].append(f"{utterance} [{seconds:03}.0000-{seconds + 2:03}.0000]: Excuse me.\n")
    for dialogue in dialogues:
        evaluation = "% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]\n\n" + "".join(evaluations[dialogue])
        write_dialogue(tmp_path, dialogue, evaluation, "".join(transcripts[dialogue]))
    return tmp_path


@pytest.mark.shared
def test_a_tree_of_published_size_has_the_published_counts(published: Path) -> None:
    clips = read(published).values()
    counts = Counter(clip.emotion for clip in clips)
    assert {"clips": len(clips), "speakers": len({clip.speaker for clip in clips}), **counts} == CORPUS.counts
    assert len({clip.dialogue for clip in clips}) == 151
    assert {clip.text for clip in clips} == {"Excuse me."}
    assert all(sum((clip.votes_both or {}).values()) == 3 for clip in clips)


@pytest.mark.shared
def test_four_classes_have_the_canonical_counts_by_session(published: Path) -> None:
    clips = read(published).values()
    emotions = Counter((clip.session, CORPUS.labels[clip.emotion or ""]) for clip in clips)
    four = ("angry", "happy", "neutral", "sad")
    by_session = [sum(emotions[f"Ses0{number}", emotion] for emotion in four) for number in range(1, 6)]
    assert by_session == [1085, 1023, 1151, 1031, 1241]
    assert sum(by_session) == 5531
    assert sum(number for (_, emotion), number in emotions.items() if emotion in (*four, "surprise")) == 5531 + 107


@pytest.mark.shared
def test_folds_are_emoboxs(published: Path, shared: Path) -> None:
    clips = read(published).values()
    for number in range(1, 6):
        listed = emobox(shared, f"fold_{number}/iemocap_test_fold_{number}.jsonl.gz")
        test = [clip for clip in clips if clip.speaker in CORPUS.folds[f"session-{number}"]]
        kept = {"ang", "hap", "exc", "neu", "sad"}
        assert {clip.utterance: clip.emotion for clip in test if clip.emotion in kept} == listed


@pytest.mark.shared
def test_audio_lies_where_emobox_finds_it(published: Path, shared: Path) -> None:
    path = shared / "data" / "EmoBox" / "iemocap" / "iemocap.jsonl.gz"
    lines = gzip.decompress(path.read_bytes()).splitlines()
    listed = {json.loads(line)["wav"].removeprefix("downloads/iemocap/") for line in lines}
    assert len(listed) == 5531
    assert listed <= {clip.audio for clip in read(published).values()}
