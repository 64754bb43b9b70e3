"""The benchmarks of `make bench` compare what they say, on tiny shapes."""

import gzip
import json
from pathlib import Path

import pytest

from benchmarks import kd_loss, official_layout
from benchmarks.gpu.sizes import tiny
from pipeline.stage import UserError


def test_both_ways_to_the_kl_give_the_same_loss_and_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kd_loss, "ROUNDS", 1)
    figures = kd_loss.measure(kd_loss.Shape(positions=40, responses=12, vocabulary=50, width=8))
    assert figures["loss_off"] < 1e-5
    assert figures["gradient_off"] < 1e-5
    assert min(figures["plain_over_ours"], figures["plain_over_ours_cpu"]) > 0


def test_the_responses_are_at_the_end_of_each_row() -> None:
    predicts = kd_loss.make_states(kd_loss.Shape(vocabulary=4, width=2)).predicts.tolist()
    assert predicts == [160 * row + place for row in range(4) for place in range(160 - 44, 160)]


def test_the_kl_needs_a_tenth_of_the_memory_of_full_logits() -> None:
    ours, plain = (kd_loss.counted_gib(name, kd_loss.Shape()) for name in ("ours", "plain"))
    print(f"counted: ours {ours:.3f} GiB, plain {plain:.3f} GiB")
    assert plain > 3 * 640 * 151_936 * 4 / 2**30
    assert ours <= kd_loss.MEMORY_SHARE * plain


def test_the_official_layout_executes_more_and_the_share_is_that_of_its_quotient(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(official_layout, "ROUNDS", 1)
    path = tmp_path / "EmoBox" / "cremad" / "cremad.jsonl.gz"
    path.parent.mkdir(parents=True)
    with gzip.open(path, "wt") as lines:
        lines.writelines(json.dumps({"length": 2 + 0.5 * i}) + "\n" for i in range(8))
    figures = official_layout.measure(tiny(), tmp_path, ["cremad"], num_clips=8)
    for stage in ("semantic", "emotion"):
        found = figures[f"{stage} cremad"]
        assert found["clips"] == 8
        assert found["flops_official_over_ours"] > 2
        share = found["time_official_over_ours"] / found["flops_official_over_ours"]
        assert found["share_of_quotient"] == pytest.approx(share)


def test_a_missing_list_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"iemocap.jsonl.gz: no list there, expected EmoBox's list of iemocap"):
        official_layout.lengths_s("iemocap", tmp_path)
