"""The links of a speech LLM between a clip and the answer, in the order in which the emotion passes them."""

from collections.abc import Sequence
from dataclasses import dataclass

ENCODER, ADAPTER = "encoder", "adapter output"
SPEECH, LAST = "speech positions", "last position"
HEAD = "emotion head"
LABEL, PROMPTED, OWN = "likeliest label", "prompted answer", "own answers"
"""The last four need no probe, because the model itself says an emotion."""


@dataclass(frozen=True, slots=True)
class Link:
    """A place whose states a probe gets, or a way in which the model says an emotion."""

    group: str
    layer: int | None = None
    """The number of layers that the states have passed; None if the group has no layers."""

    @property
    def name(self) -> str:
        """The name in tables and sentences."""
        if self.layer is None:
            return self.group
        return f"{self.group}, layer {self.layer}"


def probed_links(num_encoder_layers: int, num_llm_layers: int) -> list[Link]:
    """Return the links that are probed, in the order of their features."""
    return [
        *(Link(ENCODER, layer) for layer in range(num_encoder_layers + 1)),
        Link(ADAPTER),
        *(Link(group, layer) for group in (SPEECH, LAST) for layer in range(1, num_llm_layers + 1)),
    ]


def leads_to_answer(link: Link) -> bool:
    """Return whether what a link loses is lost to the answer; the emotion head only reads the adapter's output."""
    return link.group != HEAD


def groups_of(links: Sequence[Link]) -> dict[str, list[int]]:
    """Return the numbers of the links of each group."""
    found: dict[str, list[int]] = {}
    for number, link in enumerate(links):
        found.setdefault(link.group, []).append(number)
    return found
