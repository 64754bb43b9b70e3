"""Figures of the report, as SVG text in the colours of the page.

Text and axes are drawn in `currentColor`, and the other colours are variables of the page's style sheet. So one figure
suits light and dark pages. The colours follow Okabe and Ito, so colour-blind readers can distinguish them. No figure
relies only on colour. Every figure has a text alternative with its numbers.
"""

import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from markupsafe import escape
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from evaluate.intervals import Floats
from evaluate.metrics import UNPARSABLE
from evaluate.report.reliability import Bins
from evaluate.training_curves import TERMS, Losses

_INK = "#010203"  # replaced by currentColor, which matplotlib does not know
_BLUE, _ORANGE, _GREEN, _GREY = "#1f83c4", "#d55e00", "#009e73", "#8a8f98"
_VARIABLES = {_BLUE: "--blue", _ORANGE: "--orange", _GREEN: "--green", _GREY: "--grey"}
_WIDTH_IN = 4.4  # 422 CSS pixels: nearly at full size on a phone

Groups = Sequence[tuple[str, Sequence[int]]]
"""Groups of links: the name, and the numbers of the layers, if there are any."""

_LOSS_NAMES = {"kl": "continuation KL", "ce": "continuation CE", "emotion": "emotion CE"}


def draw_confusion(counts: Floats, emotions: Sequence[str], of: str) -> str:
    """Draw the numbers of clips by true and predicted emotion, (K, K) or (K, K + 1) with unparsable answers last.

    `of` names the system and the corpus, as in all figures; the text alternative begins with it.
    """
    columns = [*emotions, UNPARSABLE][: counts.shape[1]]

    def paint(ax: Axes) -> None:
        for row, total in enumerate(counts.sum(axis=1)):
            for column, count in enumerate(counts[row]):
                # At most 0.75, so that the text stays readable on light and dark pages.
                alpha = 0.75 * count / max(total, 1)
                color = _GREY if columns[column] == UNPARSABLE else _BLUE
                ax.fill_between([column, column + 1], row, row + 1, color=color, alpha=alpha, lw=0)
                ax.text(column + 0.5, row + 0.5, _number(count), ha="center", va="center")
        ax.set(
            xlim=(0, len(columns)), ylim=(len(emotions), 0), xlabel="predicted emotion", ylabel="true emotion (clips)"
        )
        ax.set_xticks([i + 0.5 for i in range(len(columns))], columns, rotation=45, ha="right")
        ax.set_yticks([i + 0.5 for i in range(len(emotions))], emotions)
        ax.tick_params(length=0)
        if UNPARSABLE in columns:
            ax.axvline(len(emotions), color=_INK, lw=0.8)
        for spine in ax.spines.values():
            spine.set_visible(False)

    said = [
        f"{emotion}: "
        + ", ".join(f"{_number(count)} {name}" for name, count in zip(columns, row, strict=True) if count)
        for emotion, row in zip(emotions, counts, strict=True)
        if row.any()
    ]
    size = 0.43 * len(emotions)
    alternative = f"{of}: confusion matrix in clips, true emotion: predicted emotions. {'; '.join(said)}."
    return _draw(paint, alternative, height_in=1.2 + size, width_in=1.75 + size)


def draw_reliability(bins: Bins, of: str) -> str:
    """Draw the accuracy of the emotion head by its confidence; the area of a dot is its number of clips."""

    def paint(ax: Axes) -> None:
        ax.plot([0, 100], [0, 100], color=_INK, lw=1, ls=(0, (4, 3)), label="confidence = accuracy")
        ax.plot(100 * bins.confidence, 100 * bins.accuracy, color=_BLUE, lw=1.2, alpha=0.7)
        sizes = 3 + 11 * np.sqrt(bins.clips / bins.clips.max())
        for x, y, size in zip(bins.confidence, bins.accuracy, sizes, strict=True):
            ax.plot(100 * x, 100 * y, "o", color=_BLUE, ms=size)
        ax.plot([], [], "o", color=_BLUE, ms=6, label="clips of a bin")
        ax.set(xlim=(0, 106), ylim=(-6, 106), xlabel="confidence (%)", ylabel="accuracy (%)")
        ax.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, fontsize=9, markerscale=0.6)

    said = [
        f"at {100 * confidence:.0f} % confidence {100 * accuracy:.0f} % accuracy ({clips} clips)"
        for confidence, accuracy, clips in zip(bins.confidence, bins.accuracy, bins.clips, strict=True)
    ]
    return _draw(paint, f"{of}: accuracy by confidence: {'; '.join(said)}.", height_in=2.9)


def draw_divergences(systems: Mapping[str, Mapping[str, float]], of: str) -> str:
    """Draw the stage-1 KL before training, after it and with wrong clips, with intervals; the transcript is at zero."""
    conditions = (
        ("before", "before training", _GREY),
        ("after", "after training", _BLUE),
        ("shuffled", "after training,\nanother speaker's clip", _ORANGE),
    )
    bars = [bar for bar in conditions if bar[0] in systems]

    def paint(ax: Axes) -> None:
        for y, (name, _, color) in enumerate(bars):
            score = systems[name]
            ax.barh(y, score["kl"], height=0.55, color=color, alpha=0.8)
            if "kl_low" in score:
                ax.plot([score["kl_low"], score["kl_high"]], [y, y], color=_INK, lw=1.5, marker="|", ms=9)
            ax.annotate(
                f"{score['kl']:.3f}", (max(score.get("kl_high", 0), score["kl"]), y),
                xytext=(7, 0), textcoords="offset points", va="center",
            )  # fmt: skip
        ax.plot(0, len(bars), "D", color=_GREEN, ms=7, clip_on=False)
        ax.annotate("0 by definition", (0, len(bars)), xytext=(9, 0), textcoords="offset points", va="center")
        ax.set_yticks(range(len(bars) + 1), [*(label for _, label, _ in bars), "the transcript\nitself"])
        ax.tick_params(axis="y", length=0, pad=9)
        widest = max(systems[name].get("kl_high", systems[name]["kl"]) for name, _, _ in bars)
        ax.set(xlim=(0, 1.22 * widest), ylim=(len(bars) + 0.5, -0.5), xlabel="KL divergence (nats per token)")

    said = ", ".join(f"{label} {systems[name]['kl']:.3f}" for name, label, _ in bars).replace("\n", " ")
    return _draw(paint, f"{of}: KL divergence in nats per token: {said}, the transcript itself 0.", height_in=2.5)


def draw_losses(losses: Losses, of: str) -> str:
    """Draw the terms of a training stage's loss by step; markers are the dev split."""
    train, dev = losses.train, losses.dev
    terms = [name for name in TERMS if name in train]

    def paint(ax: Axes) -> None:
        styles = ((_BLUE, "-", "o"), (_ORANGE, "--", "s"), (_GREEN, ":", "^"))
        for name, (color, dash, marker) in zip(terms, styles, strict=False):
            ax.plot(train["step"], train[name], dash, color=color, lw=1.8, label=_LOSS_NAMES[name])
            if dev["step"]:
                ax.plot(dev["step"], dev[name], marker, color=color, ms=5, label="dev speakers")
        ax.set(xlabel="optimiser step", ylabel="loss (nats)", ylim=(0, None))
        ax.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=len(terms), fontsize=9)

    said = ", ".join(f"{_LOSS_NAMES[name]} from {train[name][0]:.2f} to {train[name][-1]:.2f}" for name in terms)
    on_dev = ", ".join(f"{_LOSS_NAMES[name]} {dev[name][-1]:.2f}" for name in terms if dev["step"])
    alternative = f"{of}: losses in nats, from step {train['step'][0]:.0f} to {train['step'][-1]:.0f}: {said}."
    return _draw(paint, alternative + (f" At the end, on dev speakers: {on_dev}." if on_dev else ""), height_in=2.9)


@dataclass(frozen=True, slots=True)
class LinkCurve:
    """Accuracies of the links of a model on some clips, one value per link; NaN where there is none."""

    ua: Floats
    low: Floats
    high: Floats
    control: Floats
    """Of the probe whose labels were permuted."""


def draw_links(groups: Groups, curves: Mapping[str, LinkCurve], chance: float, of: str) -> str:
    """Draw the unweighted accuracy of each link with its interval, the control and chance.

    The links of the groups follow one another in the curves.
    """
    at = _link_places(groups)
    marks = ((_BLUE, "-", "o"), (_ORANGE, "--", "s"))

    def paint(ax: Axes) -> None:
        for (name, curve), (color, dash, marker), shift in zip(curves.items(), marks, (-0.25, 0.25), strict=False):
            for places in at:
                numbers, x = zip(*places, strict=True)
                if len(x) == 1:
                    x = (x[0] + shift,)  # so that no interval hides another
                ua, low, high = (100 * values[list(numbers)] for values in (curve.ua, curve.low, curve.high))
                ax.plot(x, ua, dash, color=color, lw=1.6, marker=marker, ms=3)
                if len(x) > 1:
                    ax.fill_between(x, low, high, color=color, alpha=0.18, lw=0)
                else:
                    ax.plot([x[0], x[0]], [low[0], high[0]], color=color, lw=1.2, marker="_", ms=6)
                ax.plot(x, 100 * curve.control[list(numbers)], ":", color=color, lw=1.1, marker=".", ms=2)
            ax.plot([], [], dash, color=color, lw=1.6, marker=marker, ms=3, label=name)
            ax.plot([], [], ":", color=color, lw=1.1, label=f"{name}, labels permuted")
        ax.axhline(100 * chance, color=_INK, lw=0.9, ls=(0, (6, 3)), label="chance")
        _name_links(ax, groups, at)
        ax.set(ylim=(0, 103), ylabel="unweighted accuracy (%)")
        ax.set_title(f"{of}: where a linear probe finds the emotion", loc="left", fontsize=10.5, pad=52)
        ax.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, fontsize=9)

    names = [name if not layers else f"{name}, layer {layer}" for name, layers in groups for layer in layers or (0,)]
    said = [
        f"{words}: " + ", ".join(f"{name} {100 * ua:.0f}" for name, ua in zip(names, curve.ua, strict=True) if ua == ua)
        for words, curve in curves.items()
    ]
    alternative = f"{of}: unweighted accuracy in percent at each link, chance {100 * chance:.0f}. {'; '.join(said)}."
    return _draw(paint, alternative, height_in=4.6, width_in=8.0)


def _link_places(groups: Groups) -> list[list[tuple[int, float]]]:
    """Return number and x of each link, by group; all groups with layers are equally wide."""
    found, number, left = [], 0, 0.0
    for _, layers in groups:
        count = max(len(layers), 1)
        width = 10.0 if layers else 2.0
        inner = width - 1  # room between the numbers of two groups
        found.append([(number + i, left + 0.5 + inner * (i + 0.5) / count) for i in range(count)])
        number, left = number + count, left + width
    return found


def _name_links(ax: Axes, groups: Groups, at: Sequence[Sequence[tuple[int, float]]]) -> None:
    """Write the layers and the names of groups below the axis, and draw lines between groups."""
    ticks: list[tuple[float, str]] = []
    right = 0.0
    for (name, layers), places in zip(groups, at, strict=True):
        shown = sorted({0, len(layers) // 2, len(layers) - 1}) if layers else []
        ticks += [(places[i][1], str(layers[i])) for i in shown]
        middle = right + (5.0 if layers else 1.0)
        right += 10.0 if layers else 2.0
        where: dict[str, Any] = {"transform": ax.get_xaxis_transform(), "va": "top"}
        if layers:
            ax.text(middle, -0.075, f"{name}\nafter layer", ha="center", **where)
        else:
            ax.text(middle, -0.03, name, ha="right", rotation=45, rotation_mode="anchor", **where)
        ax.axvline(right, color=_GREY, lw=0.6, alpha=0.5)
    ax.set_xticks([x for x, _ in ticks], [text for _, text in ticks])
    ax.set_xlim(0, right)


def _number(count: float) -> str:
    return f"{count:.1f}".removesuffix(".0")


def _draw(paint: Callable[[Axes], None], alternative: str, height_in: float, width_in: float = _WIDTH_IN) -> str:
    """Return the figure as an SVG element with a text alternative."""
    with matplotlib.rc_context(
        {
            "svg.fonttype": "none",
            "svg.hashsalt": alternative,  # ids that are the same in each run, and others in each figure
            "font.family": "DejaVu Sans",
            "font.size": 9.5,
            "xtick.labelsize": 9.0,
            "ytick.labelsize": 9.0,
            "text.color": _INK,
            "axes.edgecolor": _INK,
            "axes.labelcolor": _INK,
            "xtick.color": _INK,
            "ytick.color": _INK,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "legend.frameon": False,
        }
    ):
        figure = Figure(figsize=(width_in, height_in), layout="constrained")
        paint(figure.add_subplot())
        buffer = io.StringIO()
        no_date = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(buffer, format="svg", transparent=True, metadata=no_date)
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :].replace(_INK, "currentColor").replace("'DejaVu Sans'", "system-ui, sans-serif")
    for color, variable in _VARIABLES.items():
        svg = svg.replace(color, f"var({variable})")
    svg = svg.replace("<svg ", f'<svg role="img" aria-label="{escape(alternative)}" ', 1)
    svg = re.sub(r"<style.*?</style>", "", svg, flags=re.DOTALL)  # it would apply to the whole page
    return re.sub(r' id="[\w.]+_\d+"', "", svg)  # matplotlib uses the same ids in every figure
