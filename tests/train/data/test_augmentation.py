"""The same draw for a visit wherever it is made, and effects that do what their values say."""

import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader

from pipeline.audio.mono_16k import SAMPLE_RATE_HZ, Samples
from pipeline.stage import UserError
from pipeline.tables import packed
from tests.builders import write_audio
from train.data.augmentation import (
    TELEPHONE_HZ,
    Augmentation,
    Drawn,
    Gain,
    Noise,
    Polarity,
    Room,
    Telephone,
    apply,
    excess_db,
    unlimited,
)
from train.data.dataset import Example, Examples, visits
from train.data.effects import PRESETS, AugmentParams
from train.data.log_mel import LogMel
from train.data.sounds import ColouredNoises, DecayingNoises, Folder, NoiseFolder, ResponseFolder

ALWAYS: dict[str, Any] = {
    "room": {"probability": 1.0, "folder": None},
    "noise": {"probability": 1.0, "folder": None, "min_snr_db": 15.0, "max_snr_db": 30.0},
    "telephone": {"probability": 1.0},
    "gain": {"probability": 1.0, "min_db": -6.0, "max_db": 6.0},
    "polarity": {"probability": 1.0},
    "speed": None,
}
OFF: dict[str, Any] = dict.fromkeys(ALWAYS)


class RawSamples(LogMel):
    """Passes the samples on in place of a log-mel."""

    def __init__(self) -> None:
        pass

    def __call__(self, clip: Samples) -> Tensor:
        return torch.from_numpy(clip.copy())[None]


def augmentation(seed: int = 1, **effects: Any) -> Augmentation:
    return Augmentation(AugmentParams.model_validate({**(effects or PRESETS["emotion-safe"] or {})}), seed, None)


def tone(hz: float, seconds: float = 2.0, peak: float = 0.1) -> Samples:
    times = np.arange(int(seconds * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ
    return (peak * np.sin(2 * np.pi * hz * times)).astype(np.float32)


def speech(seconds: float = 3.0, seed: int = 0, peak: float = 0.3) -> Samples:
    """Make up a clip that is loud and quiet in turn."""
    generator = np.random.default_rng(seed)
    samples = generator.standard_normal(int(seconds * SAMPLE_RATE_HZ))
    samples *= np.repeat(generator.uniform(0.05, 1, len(samples) // 800 + 1), 800)[: len(samples)]
    clip: Samples = (peak * samples / np.abs(samples).max()).astype(np.float32)
    return clip


def level_db(samples: NDArray[Any]) -> float:
    return float(10 * np.log10(np.square(samples.astype(np.float64)).mean()))


def fixed(value: float) -> Callable[[str], float]:
    return lambda _name: value


@contextmanager
def global_generators_stay() -> Iterator[None]:
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()
    yield
    assert random.getstate() == before[0]
    assert all(np.array_equal(a, b) for a, b in zip(np.random.get_state(), before[1], strict=True))
    assert torch.equal(torch.get_rng_state(), before[2])


@pytest.fixture
def rows(packed_folder: Path) -> packed.Rows:
    return packed.load(packed_folder, "train")


def read(examples: Examples, num_workers: int, order: list[int], epoch: int = 0) -> dict[str, Tensor]:
    """Return the samples of rows, read by workers in batches of three."""
    batches = [visits(order[i : i + 3], epoch) for i in range(0, len(order), 3)]
    loader: DataLoader[Example] = DataLoader(examples, batch_sampler=batches, collate_fn=list, num_workers=num_workers)
    return {example.id: example.features for batch in loader for example in batch}


def test_workers_order_and_a_later_start_do_not_change_a_draw(rows: packed.Rows) -> None:
    examples = Examples(rows, RawSamples(), [], augmentation())
    order = list(range(len(rows)))
    with global_generators_stay():
        expected = {e.id: e.features for e in map(examples.__getitem__, visits(order, 0))}
    assert len(expected) == 12
    for num_workers in (0, 1, 2):
        other = read(Examples(rows, RawSamples(), [], augmentation()), num_workers, order[::-1][:7])
        assert len(other) == 7
        assert all(torch.equal(samples, expected[key]) for key, samples in other.items())


def test_the_numbers_of_rows_do_not_change_a_draw(rows: packed.Rows) -> None:
    expected = read(Examples(rows, RawSamples(), [], augmentation()), 0, list(range(12)))
    fewer = rows.select([9, 2, 5])
    found = read(Examples(fewer, RawSamples(), [], augmentation()), 0, [0, 1, 2])
    assert list(found) == ["corpus/train-9", "corpus/train-2", "corpus/train-5"]
    assert all(torch.equal(samples, expected[key]) for key, samples in found.items())


def test_threads_that_share_an_augmentation_do_not_meet() -> None:
    shared = augmentation(**ALWAYS)
    clips = [speech(1.0 + i / 10, seed=i) for i in range(8)]

    def change(task: int) -> Samples:
        return shared(task % 8, f"row-{task % 8}", clips[task % 8], epoch=task // 8)

    expected = [change(task) for task in range(64)]
    with global_generators_stay(), ThreadPoolExecutor(8) as threads:
        found = list(threads.map(change, range(64)))
    assert all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True))


def test_epochs_and_seeds_draw_anew() -> None:
    drawn = [
        str([*map(str, augmentation(seed, **ALWAYS).draw(0, "a", 100, epoch))]) for seed in (1, 2) for epoch in (0, 1)
    ]
    assert len(set(drawn)) == 4


def test_an_effect_is_drawn_as_often_as_its_probability_and_apart_from_the_others() -> None:
    names = [[e.name for e in augmentation().draw(0, f"row-{i}", 100, 0)] for i in range(4000)]
    for name, probability in {"room": 0.3, "noise": 0.5, "telephone": 0.1, "gain": 0.5, "polarity": 0.5}.items():
        assert np.mean([name in drawn for drawn in names]) == pytest.approx(probability, abs=0.03)
    together = np.mean(["noise" in drawn and "gain" in drawn for drawn in names])
    assert together == pytest.approx(0.25, abs=0.03)
    alone = augmentation(**OFF | {"gain": ALWAYS["gain"]}).draw(0, "a", 100, 0)
    assert alone == [e for e in augmentation(**ALWAYS).draw(0, "a", 100, 0) if e.name == "gain"]


def test_an_emotion_safe_clip_keeps_its_length() -> None:
    for i in range(20):
        assert len(augmentation(**ALWAYS)(0, f"row-{i}", speech(1.3), 0)) == len(speech(1.3))


def test_without_augmentation_visits_read_the_packed_samples(rows: packed.Rows) -> None:
    plain = Examples(rows, RawSamples(), [])
    for number in range(len(rows)):
        packed_samples = plain[number].features
        assert torch.equal(plain[visits([number], 3)[0]].features, packed_samples)
        augmented = Examples(rows, RawSamples(), [], augmentation(**ALWAYS))
        assert torch.equal(augmented[number].features, packed_samples)
        assert not torch.equal(augmented[visits([number], 3)[0]].features, packed_samples)


def test_only_a_run_with_augmentation_imports_audiomentations(root: Path) -> None:
    code = "import sys, train.data.augmentation; sys.exit(sorted({'audiomentations', 'scipy'} & set(sys.modules)) or 0)"
    subprocess.run([sys.executable, "-c", code], cwd=root, check=True)


@pytest.mark.parametrize("snr_db", [15.0, 22.5, 30.0])
@pytest.mark.parametrize("colour", ["pink", "brown"])
def test_the_noise_has_its_ratio_to_the_speech(snr_db: float, colour: str) -> None:
    for start in (0.0, 0.5, 0.97):
        clip = speech(4.5)
        added = Noise(ColouredNoises(), colour, start, snr_db)(clip) - clip
        assert level_db(clip) - level_db(added) == pytest.approx(snr_db, abs=0.5)


def test_noises_of_a_folder_are_cut_repeated_resampled_and_mixed(tmp_path: Path) -> None:
    clip = speech(2.0)
    for name, seconds, rate, channels in (
        ("long", 6.0, 44_100, 2),
        ("short", 0.3, 16_000, 1),
        ("equal", 2.0, 8_000, 1),
    ):
        tones = np.stack([tone(440, seconds, 0.5)] * channels, axis=1)
        write_audio(tmp_path / name / "a.wav", tones, rate)
        source = NoiseFolder(Folder.open("noise", tmp_path / name))
        for start in (0.0, 0.31, 0.999):
            file, _ = source.choose(fixed(start))
            added = Noise(source, file, start, 20.0)(clip) - clip
            assert level_db(clip) - level_db(added) == pytest.approx(20, abs=0.5)


def test_a_silent_noise_and_a_silent_clip_add_nothing(tmp_path: Path) -> None:
    write_audio(tmp_path / "silent.wav", np.zeros(8000))
    source = NoiseFolder(Folder.open("noise", tmp_path))
    clip = speech(1.0)
    assert np.array_equal(Noise(source, str(tmp_path / "silent.wav"), 0.0, 20.0)(clip), clip)
    silence = np.zeros(8000, np.float32)
    changed = augmentation(**ALWAYS)(0, "a", silence, 0)
    assert not changed.any()


def test_the_gain_stays_through_a_room_and_a_noise() -> None:
    clip = speech(3.0, peak=0.1)
    for value in (0.0, 0.4, 0.9):
        room = Room(DecayingNoises().choose(fixed(value)))
        assert level_db(room(clip)) == pytest.approx(level_db(clip), abs=0.01)
        for db in (-6.0, 4.0):
            changed = apply([room, Gain(db)], clip)
            assert level_db(changed) - level_db(clip) == pytest.approx(db, abs=0.01)
            with_noise = apply([room, Noise(ColouredNoises(), "pink", 0.1, 15.0), Gain(db)], clip)
            assert level_db(with_noise) - level_db(clip) == pytest.approx(db, abs=0.2)


def test_a_room_of_a_folder_keeps_level_and_place_of_the_clip(tmp_path: Path) -> None:
    response = np.zeros(4000)
    response[[1000, 1400, 3000]] = 0.9, 0.3, -0.1  # 63 ms before the direct sound arrives
    write_audio(tmp_path / "a.flac", response)
    clip = np.zeros(8000, np.float32)
    clip[2000] = 0.5
    changed = Room(ResponseFolder(Folder.open("room", tmp_path)).choose(fixed(0.3)))(clip)
    assert int(np.abs(changed).argmax()) == 2000
    assert level_db(changed) == pytest.approx(level_db(clip), abs=0.01)
    assert changed[2400] / changed[2000] == pytest.approx(1 / 3, rel=1e-3)


def test_a_synthesised_room_decays_by_60_db_in_its_time() -> None:
    response = DecayingNoises().choose(fixed(0.5))
    assert response.name == "RT60 0.40 s, direct sound 6.0 dB over the reverberation"
    tail = response.samples[1:]
    assert len(tail) == 0.4 * SAMPLE_RATE_HZ
    assert 10 * np.log10(np.square(tail, dtype=np.float64).sum()) == pytest.approx(-6, abs=0.01)
    blocks = [level_db(tail[i : i + 640]) for i in range(0, len(tail), 640)]
    assert blocks[0] - blocks[-1] == pytest.approx(54, abs=3)  # of 10 blocks, from middle to middle


def test_the_telephone_keeps_its_band_alone() -> None:
    assert TELEPHONE_HZ == (300.0, 3400.0)
    for hz in (500, 1000, 3000):
        assert level_db(Telephone()(tone(hz))) == pytest.approx(level_db(tone(hz)), abs=1)
    for hz in (100, 4100, 5000, 7000):
        assert level_db(Telephone()(tone(hz))) < level_db(tone(hz)) - 20


def test_polarity_inverts() -> None:
    assert np.array_equal(Polarity()(speech()), -speech())


def test_no_sample_is_over_full_scale() -> None:
    loud = speech(peak=0.99)
    effects: list[Drawn] = [Room(DecayingNoises().choose(fixed(0.2))), Gain(6.0)]
    assert excess_db(unlimited(effects, loud)) > 3
    changed = apply(effects, loud)
    assert np.abs(changed).max() == pytest.approx(1.0)
    np.testing.assert_allclose(
        changed / np.abs(changed).max(), unlimited(effects, loud) / np.abs(unlimited(effects, loud)).max(), atol=1e-6
    )


def test_the_given_samples_stay_as_they_are() -> None:
    clip = speech()
    kept = clip.copy()
    augmentation(**ALWAYS)(0, "a", clip, 0)
    assert np.array_equal(clip, kept)


@pytest.mark.parametrize(("effect", "key"), [("noise", "noise.folder"), ("room", "room.folder")])
def test_a_folder_of_sounds_that_cannot_be_used_is_named(tmp_path: Path, effect: str, key: str) -> None:
    folder = tmp_path / "sounds"
    effects = OFF | {effect: ALWAYS[effect] | {"folder": str(folder)}}
    with pytest.raises(UserError, match=rf"^fit\.\*\.augment\.{key}: {folder}: found no such folder, expected"):
        augmentation(**effects)
    folder.mkdir()
    (folder / "README.txt").write_text("no sound")
    with pytest.raises(UserError, match=rf"{key}: {folder}: found no WAV or FLAC file, expected at least one$"):
        augmentation(**effects)
    write_audio(folder / "below" / "good.wav", tone(440))
    augmentation(**effects)
    (folder / "cut.wav").write_bytes((folder / "below" / "good.wav").read_bytes()[:1000])
    with pytest.raises(UserError, match=rf"{key}: {folder}/cut\.wav: found no usable audio \(truncated.+\), expected"):
        augmentation(**effects)


def test_a_file_that_is_damaged_inside_is_named_when_it_is_read(tmp_path: Path) -> None:
    write_audio(tmp_path / "a.wav", np.full(8000, np.nan, np.float32), subtype="FLOAT")
    changing = augmentation(**OFF | {"noise": ALWAYS["noise"] | {"folder": str(tmp_path)}})
    with pytest.raises(UserError, match=r"a\.wav: found no samples or infinite ones, expected audio$"):
        changing(0, "a", speech(), 0)
    write_audio(tmp_path / "a.wav", np.zeros(8000))
    rooms = augmentation(**OFF | {"room": ALWAYS["room"] | {"folder": str(tmp_path)}})
    with pytest.raises(UserError, match=r"a\.wav: found silence, expected an impulse response$"):
        rooms(0, "a", speech(), 0)
