from pathlib import Path

from typer.testing import CliRunner, Result

from pipeline.__main__ import app
from tests.builders import change_params
from tests.doubles import RecordingEngine


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, arguments)


def test_signatures_of_another_version_are_named_and_left_out(numbers: RecordingEngine, store: Path) -> None:
    run("generate", "semantic")
    for name, note in (("newer", '{"model": "m", "top_k": 1}'), ("broken", "")):
        (store / "continuations" / name).mkdir()
        (store / "continuations" / name / "recipe.json").write_text(note)
    result = run("history", "a")
    assert "attempt 1, in use" in result.stdout
    assert result.stderr.count("not a signature of this version; its answers are left out") == 2


def test_the_history_tells_answers_to_other_prompts_too(numbers: RecordingEngine) -> None:
    run("generate", "semantic")
    change_params({"prompts.semantic.text": "Continue: "})
    out = run("history", "a").stdout
    assert "attempt 1, made with other parameters" in out
    assert "Go on:" in out
    run("generate", "semantic")
    out = run("history", "a").stdout
    assert out.index("made with other parameters") < out.index("attempt 1, in use")
    assert max(map(len, out.splitlines())) <= 80


def test_a_row_of_both_manifests_needs_its_kind(numbers: RecordingEngine) -> None:
    Path("manifests/emotion.parquet").write_bytes(Path("manifests/semantic.parquet").read_bytes())
    assert "say which with --kind" in str(run("history", "a").exception)
    assert "the store has no answer" in run("history", "a", "--kind", "emotion").stdout
