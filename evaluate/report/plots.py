"""Figures of the report, as SVG text in the text colour of the page.

Text and axes are drawn in `currentColor`, so one figure suits light and dark pages. The colours follow Okabe and Ito,
so colour-blind readers can distinguish them. No figure relies only on colour.
"""

import io
import re
from collections.abc import Callable, Mapping, Sequence

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from evaluate.intervals import Floats
from evaluate.predictions import GIVEN, HEAD, LOGPROB, PROMPTED, SHUFFLED, SYSTEMS, TRANSCRIPT, VOICE
from evaluate.training_curves import TERMS, Losses

_INK = "#010203"  # replaced by currentColor, which matplotlib does not know
_BLUE, _ORANGE, _GREEN, _GREY = "#1f83c4", "#d55e00", "#009e73", "#8a8f98"
_WIDTH_IN = 4.4  # 422 CSS pixels: nearly at full size on a phone

_GIVEN_NAMES = {VOICE: "clip", TRANSCRIPT: "only transcript", SHUFFLED: "another speaker's clip"}
_READ_COLORS = {HEAD: _BLUE, LOGPROB: _ORANGE, PROMPTED: _GREEN}
_LOSS_NAMES = {"kl": "continuation KL", "ce": "continuation CE", "emotion": "emotion CE"}


def draw_accuracies(systems: Mapping[str, Mapping[str, float]]) -> str:
    """Draw the unweighted accuracy of every system with its interval, and chance as a dashed line."""

    def paint(ax: Axes) -> None:
        rows: list[tuple[float, str, str]] = []  # y position, label, font weight
        y = 0.0
        for given in GIVEN:
            of_given = [system for system in SYSTEMS if system.given == given and system.name in systems]
            if not of_given:
                continue
            rows.append((y, _GIVEN_NAMES[given], "bold"))
            for system in of_given:
                y += 1
                rows.append((y, system.read_by, "normal"))
                score = {name: 100 * value for name, value in systems[system.name].items()}
                if "ua_low" in score:
                    ax.plot([score["ua_low"], score["ua_high"]], [y, y], color=_READ_COLORS[system.read_by], lw=2.5)
                ax.plot(score["ua"], y, "o", color=_READ_COLORS[system.read_by], ms=7)
            y += 1.4
        chance = 100 * systems["chance"]["ua"]
        ax.axvline(chance, color=_INK, lw=1, ls=(0, (4, 3)))
        ax.annotate(f"chance {chance:.0f} %", (chance, 0), xytext=(4, 0), textcoords="offset points", va="center")
        ax.set(xlim=(-3, 103), ylim=(y - 0.7, -0.5), xlabel="unweighted accuracy (%)")
        ax.set_yticks([at for at, _, _ in rows], [label for _, label, _ in rows])
        for tick, (_, _, weight) in zip(ax.get_yticklabels(), rows, strict=True):
            tick.set_fontweight(weight)
        ax.tick_params(axis="y", length=0)
        ax.spines["left"].set_visible(False)

    return _draw(paint, height_in=3.6)


def draw_confusion(counts: Floats, emotions: Sequence[str]) -> str:
    """Draw the numbers of clips by true and predicted emotion, (K, K + 1); the last column is unparsable answers."""

    def paint(ax: Axes) -> None:
        for row, total in enumerate(counts.sum(axis=1)):
            for column, count in enumerate(counts[row]):
                # At most 0.75, so that the text stays readable on light and dark pages.
                alpha = 0.75 * count / max(total, 1)
                color = _GREY if column == len(emotions) else _BLUE
                ax.fill_between([column, column + 1], row, row + 1, color=color, alpha=alpha, lw=0)
                ax.text(column + 0.5, row + 0.5, f"{count:.0f}", ha="center", va="center")
        ax.set(
            xlim=(0, len(emotions) + 1),
            ylim=(len(emotions), 0),
            xlabel="predicted emotion",
            ylabel="true emotion (clips)",
        )
        ax.set_xticks([i + 0.5 for i in range(len(emotions) + 1)], [*emotions, "unparsable"], rotation=45, ha="right")
        ax.set_yticks([i + 0.5 for i in range(len(emotions))], emotions)
        ax.tick_params(length=0)
        ax.axvline(len(emotions), color=_INK, lw=0.8)
        for spine in ax.spines.values():
            spine.set_visible(False)

    size = 0.43 * len(emotions)
    return _draw(paint, height_in=1.2 + size, width_in=1.75 + size)


def draw_divergences(systems: Mapping[str, Mapping[str, float]]) -> str:
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

    return _draw(paint, height_in=2.5)


def draw_losses(losses: Losses) -> str:
    """Draw the terms of a training stage's loss by step; markers are the dev split."""
    train, dev = losses.train, losses.dev
    terms = [name for name in TERMS if name in train]

    def paint(ax: Axes) -> None:
        for name, (color, dash, marker) in zip(terms, ((_BLUE, "-", "o"), (_ORANGE, "--", "s")), strict=False):
            ax.plot(train["step"], train[name], dash, color=color, lw=1.8, label=_LOSS_NAMES[name])
            if dev["step"]:
                ax.plot(dev["step"], dev[name], marker, color=color, ms=5, label="dev speakers")
        ax.set(xlabel="optimiser step", ylabel="loss (nats)", ylim=(0, None))
        ax.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=len(terms), fontsize=9)

    return _draw(paint, height_in=2.9)


def _draw(paint: Callable[[Axes], None], height_in: float, width_in: float = _WIDTH_IN) -> str:
    with matplotlib.rc_context(
        {
            "svg.fonttype": "none",
            "svg.hashsalt": "report",  # without it, ids differ from run to run
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
    svg = re.sub(r"<style.*?</style>", "", svg, flags=re.DOTALL)  # it would apply to the whole page
    return re.sub(r' id="\w+_\d+"', "", svg)  # matplotlib uses the same ids in every figure
