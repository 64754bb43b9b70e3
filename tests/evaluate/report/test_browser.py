"""The page in a browser: it never scrolls sideways, at the widths of a phone, a tablet and a laptop."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from evaluate.report import __main__ as report
from tests.evaluate.report.test_report import add_answers, prepare

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
WIDTHS = (390, 768, 1280)
MEASURE = """
<script>addEventListener("load", () => {
  for (const details of document.querySelectorAll("details")) details.open = true;
  parent.postMessage([innerWidth, document.documentElement.scrollWidth], "*");
})</script>
"""
FRAMES = """
<!doctype html><body><script>
addEventListener("message", event => { document.body.insertAdjacentHTML("beforeend", `<p>${event.data}</p>`); });
</script>
"""


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
def test_the_page_never_scrolls_sideways(tmp_path: Path) -> None:
    paths = prepare(tmp_path)
    add_answers(tmp_path)
    paths["params_file"].write_text(paths["params_file"].read_text() + f"# {'long' * 200}\n")
    report.main(**paths)
    page = paths["output"].read_text()
    wide = '<main id="main" tabindex="-1"><div style="width: 2000px">too wide</div>'
    for name, html in {"page": page, "wide": page.replace('<main id="main" tabindex="-1">', wide)}.items():
        (tmp_path / f"{name}.html").write_text(html.replace("</body>", f"{MEASURE}</body>"))
        frames = "".join(f'<iframe src="{name}.html" width="{width}" height="800"></iframe>' for width in WIDTHS)
        (tmp_path / f"{name}-frames.html").write_text(FRAMES + frames)
    found = [widths_of(tmp_path / f"{name}-frames.html") for name in ("page", "wide")]
    assert [len(widths) for widths in found] == [3, 3]
    assert [content - window for window, content in found[0] if content > window] == []
    assert all(content > window for window, content in found[1])


def widths_of(page: Path) -> list[tuple[int, int]]:
    """Return the width of each frame, and of what is in it."""
    command = [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={page.parent}/profile"]
    ran = subprocess.run(
        [*command, "--virtual-time-budget=10000", "--dump-dom", page.as_uri()],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    return [(int(window), int(content)) for window, content in re.findall(r"<p>(\d+),(\d+)</p>", ran.stdout)]
