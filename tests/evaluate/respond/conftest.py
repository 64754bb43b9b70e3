"""Fixtures of the tests of respond."""

from pathlib import Path

import pytest
import yaml

PROMPT = {"system": "s", "text": "say: ", "speech": "hear: "}


@pytest.fixture
def params_file(tmp_path: Path) -> Path:
    settings = {"seed": 1, "batch_size": 3, "max_new_tokens": 5, "examples": 4, "precision": "auto"}
    settings |= {"recognition_wordings": ["Which of {options}? "], "option_orders": 2, "written": 0}
    prompts = dict.fromkeys(("semantic", "emotion", "recognition"), PROMPT)
    (tmp_path / "params.yaml").write_text(yaml.safe_dump({"respond": settings, "prompts": prompts}))
    return tmp_path / "params.yaml"
