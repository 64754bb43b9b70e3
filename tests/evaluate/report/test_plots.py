"""The figures: whole, the same each time, and fit to stand together in a page."""

import re
from collections.abc import Callable
from xml.etree import ElementTree

import numpy as np
import pytest

from evaluate.predictions import SYSTEMS
from evaluate.report import plots
from evaluate.training_curves import Losses

SCORE = {"ua": 0.6, "ua_low": 0.5, "ua_high": 0.7}
KL = {"kl": 1.5, "kl_low": 1.4, "kl_high": 1.6}
CLASSES = ["neutral", "sad", "angry", "happy", "surprise", "fear", "disgust", "calm"]

FIGURES: dict[str, Callable[[], str]] = {
    "accuracies": lambda: plots.draw_accuracies({system.name: SCORE for system in SYSTEMS} | {"chance": {"ua": 0.25}}),
    "divergences": lambda: plots.draw_divergences({"before": KL, "after": KL, "shuffled": KL}),
    "confusion": lambda: plots.draw_confusion(np.full((8, 9), 123.0), CLASSES),
    "losses": lambda: plots.draw_losses(
        Losses(
            train={"step": [1, 2], "lr": [1, 1], "loss": [3, 2], "ce": [2, 1], "emotion": [1, 1]},
            dev={"step": [2], "ce": [2], "emotion": [1]},
        )
    ),
}


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_is_an_svg_element_in_the_ink_of_its_page(name: str) -> None:
    svg = FIGURES[name]()
    assert ElementTree.fromstring(svg).tag.endswith("svg")
    assert "currentColor" in svg
    assert "<style" not in svg
    assert not re.search(r"#000000|http://(?!www\.w3\.org)", svg)


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_is_the_same_each_time(name: str) -> None:
    assert FIGURES[name]() == FIGURES[name]()


def texts(svg: str) -> list[str]:
    return [element.text or "" for element in ElementTree.fromstring(svg).iter() if element.tag.endswith("text")]


def test_the_confusion_shows_every_count_and_the_unparsable_column() -> None:
    counts = np.arange(6, dtype=np.float64).reshape(2, 3)
    shown = texts(plots.draw_confusion(counts, ["sad", "happy"]))
    assert {"0", "1", "2", "3", "4", "5", "unparsable", "predicted emotion"} <= set(shown)


def test_a_class_without_a_clip_is_drawn_empty() -> None:
    assert texts(plots.draw_confusion(np.zeros((2, 3)), ["sad", "happy"])).count("0") == 6


def test_every_axis_names_its_unit() -> None:
    labels = {name: texts(draw()) for name, draw in FIGURES.items()}
    assert "unweighted accuracy (%)" in labels["accuracies"]
    assert "KL divergence (nats per token)" in labels["divergences"]
    assert "true emotion (clips)" in labels["confusion"]
    assert "loss (nats)" in labels["losses"]
    assert "chance 25 %" in labels["accuracies"]


def test_losses_without_a_dev_split_are_drawn() -> None:
    svg = plots.draw_losses(Losses({"step": [1], "lr": [1], "loss": [2], "kl": [2]}, {"step": [], "kl": []}))
    assert "dev speakers" not in texts(svg)
    assert "continuation KL" in texts(svg)
