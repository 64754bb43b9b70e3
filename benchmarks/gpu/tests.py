"""Part 2: run `pytest -m gpu`; a tiny run on a CPU runs the same tests on the CPU."""

import os
import subprocess
import sys
import xml.etree.ElementTree as ElementTree

from benchmarks.gpu.card import DEVICE, Figures, Out, Tiny
from pipeline.stage import UserError, run_stage


def main(out: Out, tiny: Tiny = False) -> None:
    """Run the tests that need a GPU."""
    figures = Figures(out, "tests")
    log = out / "tests.xml"
    # other versions than the locked ones may give warnings, which are not failures of this project
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-q", "-W", "default", "-p", "no:cacheprovider"]
    env = {**os.environ, **({"BLSP_TEST_DEVICE": "cpu"} if tiny and DEVICE.type == "cpu" else {})}
    status = subprocess.run([*command, "tests/train/test_gpu.py", f"--junitxml={log}"], env=env, check=False).returncode
    if not log.exists():
        raise UserError(f"tests: pytest ended with {status} before any test, expected 0")
    suite = ElementTree.parse(log).getroot()[0]
    counts = suite.attrib
    log.unlink()
    figures.add(**{name: int(counts[name]) for name in ("tests", "failures", "errors", "skipped")})
    figures.add(failed={case.attrib["name"]: _why(case) for case in suite.iter("testcase") if _why(case)})
    if status or counts["skipped"] != "0":
        raise UserError(f"tests: pytest ended with {status} and {counts['skipped']} skipped, expected 0 and none")


def _why(case: ElementTree.Element) -> str:
    """Return the last lines of why a test failed; empty if it passed."""
    found = case.find("failure")
    if found is None:
        found = case.find("error")
    return "" if found is None else (found.text or "")[-2000:]


if __name__ == "__main__":
    run_stage(main)
