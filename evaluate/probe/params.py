"""The parameters of the probe: section probe of params.yaml."""

from pydantic import PositiveInt

from pipeline.params import Section


class ProbeParams(Section):
    """The settings of the probe."""

    seed: int
    """Of the draw of training rows, if there are more than `max_rows`."""
    max_rows: PositiveInt
    """The most training rows; more would change the result little, and take long with 33 layers."""
