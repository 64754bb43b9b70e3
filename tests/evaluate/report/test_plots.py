"""The figures: whole, the same each time, and fit to stand together in a page."""

import re
from collections.abc import Callable
from xml.etree import ElementTree

import numpy as np
import pytest

from evaluate.report import plots
from evaluate.report.reliability import Bins
from evaluate.training_curves import Losses

KL = {"kl": 1.5, "kl_low": 1.4, "kl_high": 1.6}
BINS = Bins(np.array([0.4, 0.9]), np.array([0.5, 0.8]), np.array([3, 10]))
CLASSES = ["neutral", "sad", "angry", "happy", "surprise", "fear", "disgust", "calm"]

FIGURES: dict[str, Callable[[str], str]] = {
    "divergences": lambda of: plots.draw_divergences({"before": KL, "after": KL, "shuffled": KL}, of),
    "confusion": lambda of: plots.draw_confusion(np.full((8, 9), 123.0), CLASSES, of),
    "reliability": lambda of: plots.draw_reliability(BINS, of),
    "losses": lambda of: plots.draw_losses(
        Losses(
            train={"step": [1, 2], "lr": [1, 1], "loss": [3, 2], "ce": [2, 1], "emotion": [1, 1]},
            dev={"step": [2], "ce": [2], "emotion": [1]},
        ),
        of,
    ),
}


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_is_an_svg_element_in_the_ink_of_its_page(name: str) -> None:
    svg = FIGURES[name]("this")
    assert ElementTree.fromstring(svg).tag.endswith("svg")
    assert "currentColor" in svg
    assert "<style" not in svg
    assert "var(--blue)" in svg
    assert not re.search(r"#(?!m|p)[0-9a-f]{6}", svg)  # a colour of its own would not suit dark pages
    assert not re.search(r"#000000|http://(?!www\.w3\.org)", svg)


def test_each_term_of_a_loss_is_drawn() -> None:
    curves: dict[str, list[float]] = {"step": [1, 2], "kl": [3, 2], "ce": [2, 1], "emotion": [1, 1]}
    svg = plots.draw_losses(Losses(train=curves | {"lr": [1, 1], "loss": [3, 2]}, dev=curves), "this")
    assert all(f"var(--{color})" in svg for color in ("blue", "orange", "green"))


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_is_the_same_each_time(name: str) -> None:
    assert FIGURES[name]("this") == FIGURES[name]("this")


def texts(svg: str) -> list[str]:
    return [element.text or "" for element in ElementTree.fromstring(svg).iter() if element.tag.endswith("text")]


def test_the_confusion_shows_every_count_and_the_unparsable_column() -> None:
    counts = np.arange(6, dtype=np.float64).reshape(2, 3)
    shown = texts(plots.draw_confusion(counts, ["sad", "happy"], "this"))
    assert {"0", "1", "2", "3", "4", "5", "unparsable", "predicted emotion"} <= set(shown)


def test_a_class_without_a_clip_is_drawn_empty() -> None:
    assert texts(plots.draw_confusion(np.zeros((2, 3)), ["sad", "happy"], "this")).count("0") == 6


def test_every_axis_names_its_unit() -> None:
    labels = {name: texts(draw("this")) for name, draw in FIGURES.items()}
    assert {"confidence (%)", "accuracy (%)"} <= set(labels["reliability"])
    assert "KL divergence (nats per token)" in labels["divergences"]
    assert "true emotion (clips)" in labels["confusion"]
    assert "loss (nats)" in labels["losses"]


def test_losses_without_a_dev_split_are_drawn() -> None:
    svg = plots.draw_losses(Losses({"step": [1], "lr": [1], "loss": [2], "kl": [2]}, {"step": [], "kl": []}), "this")
    assert "dev speakers" not in texts(svg)
    assert "continuation KL" in texts(svg)


def alternative(svg: str) -> str:
    return ElementTree.fromstring(svg).attrib["aria-label"]


def test_the_text_alternatives_have_the_numbers() -> None:
    counts = np.array([[3.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
    assert alternative(plots.draw_confusion(counts, ["sad", "happy"], "<head> & acted")) == (
        "<head> & acted: confusion matrix in clips, true emotion: predicted emotions. sad: 3 sad, 1 happy."
    )
    assert "at 40 % confidence 50 % accuracy (3 clips)" in alternative(FIGURES["reliability"]("this"))
    assert "after training 1.500" in alternative(FIGURES["divergences"]("this"))
    assert "continuation CE from 2.00 to 1.00" in alternative(FIGURES["losses"]("this"))


def test_figures_of_the_same_numbers_have_other_ids() -> None:
    ids = [set(re.findall(r' id="([^"]+)"', FIGURES["losses"](of))) for of in ("one", "other")]
    assert ids[0]
    assert not ids[0] & ids[1]


def test_own_answers_have_no_unparsable_column_and_may_have_fractions() -> None:
    shown = texts(plots.draw_confusion(np.array([[1.5, 0.5], [0.0, 2.0]]), ["sad", "happy"], "this"))
    assert {"1.5", "0.5", "0", "2"} <= set(shown)
    assert "unparsable" not in shown
