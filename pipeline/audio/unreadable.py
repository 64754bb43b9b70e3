"""The exception for audio that cannot be used."""

from pipeline.tables.quarantine import Fault

ROUNDED_S = 0.1  # published times are rounded, so a segment may end this long after its file


class UnreadableAudio(Exception):  # noqa: N818 - it names the clip's state
    """A clip without usable samples."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.fault = Fault(reason, detail)
