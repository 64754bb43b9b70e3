"""The help text of a package: `python -m pipeline`, `python -m train` and `python -m evaluate`."""

from collections.abc import Mapping


def overview(package: str, what: str, stages: Mapping[str, str]) -> str:
    """Return the help text of `python -m PACKAGE`: its purpose, and one line for each stage."""
    lines = (f"  python -m {package}.{name:<12}{does}" for name, does in stages.items())
    return f"{what}\n\n\b\nStages, each with its own --help:\n" + "\n".join(lines)
