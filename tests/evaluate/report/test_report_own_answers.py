"""What the report says of own answers: no more than the intervals and the permutation test allow."""

import json
from pathlib import Path
from typing import Any

import pytest
from markupsafe import escape

from evaluate.own_answers import NEW_WORDS, OWN_ANSWERS, SEEN_WORDS
from evaluate.predictions import OWN_SYSTEMS
from evaluate.report import __main__ as report
from evaluate.report.own_answers import GIVEN, own_answers_verdict
from tests.evaluate.report.test_report import prepare


def scores_of(ua: float, **voice: float) -> dict[str, dict[str, float]]:
    """Build the scores of clips whose voice reaches `ua` with an interval of 0.1 on both sides, and p 0.001."""
    made: dict[str, dict[str, float]] = {"chance": {"ua": 0.25}, "answers": {"n": 48, "distinct": 40, "named": 3}}
    for system in OWN_SYSTEMS:
        value = ua if system == "voice" else 0.25
        made[system] = {"ua": value, "ua_low": value - 0.1, "ua_high": value + 0.1, "ua_raw": 0.26, "n": 1234}
        made[system] |= {"ua_unnamed": 0.27, "n_unnamed": 1000, "no_mean": 7, "speakers": 5, "p": 0.001}
    made["voice"] |= voice
    return made


@pytest.mark.parametrize(
    ("seen", "new", "claim"),
    [
        (0.7, 0.7, "answers, for words that training has seen and for new words."),
        (0.7, 0.3, "answers for words that training has seen; for new words, this was not seen."),
        (0.7, None, "answers for words that training has seen; the test has no new words."),
        (0.3, 0.7, "answers for words that training has not seen."),
        (None, 0.7, "answers for words that training has not seen."),
        (0.3, 0.3, "answers, but it was not seen for the words of training, or for new words, by themselves."),
    ],
)
def test_the_claim_says_for_which_words_the_voice_chooses(seen: float | None, new: float | None, claim: str) -> None:
    values = {OWN_ANSWERS: 0.6, SEEN_WORDS: seen, NEW_WORDS: new}
    scores = {prefix: scores_of(ua) for prefix, ua in values.items() if ua is not None}
    assert (
        own_answers_verdict(scores, "95 %", 0.05).claim == f"The voice chooses among the language model's own {claim}"
    )


@pytest.mark.parametrize("voice", [{"ua_low": 0.25}, {"p": 0.06}, {"ua_low": float("-inf"), "ua_high": float("inf")}])
def test_nothing_is_claimed_without_an_interval_above_chance_and_a_small_p(voice: dict[str, float]) -> None:
    verdict = own_answers_verdict({OWN_ANSWERS: scores_of(0.6, **voice)}, "95 %", 0.05)
    assert verdict.claim == (
        "No influence of the voice on the choice among the language model's own answers was seen, on 1,234 test clips "
        "of 5 speakers."
    )


def test_sentences_that_cannot_be_permuted_have_no_p_and_the_interval_decides() -> None:
    scores = scores_of(0.6)
    del scores["voice"]["p"]
    assert own_answers_verdict({OWN_ANSWERS: scores}, "95 %", 0.05).claim.startswith("The voice chooses")


def test_the_grounds_give_the_figures_and_what_they_do_not_show() -> None:
    grounds = own_answers_verdict({OWN_ANSWERS: scores_of(0.6)}, "95 %", 0.05).grounds
    assert "40 of these 48 continuations differ" in grounds
    assert "0.60 (95 % interval 0.50 to 0.70); chance is 0.25" in grounds
    assert "This does not show that the model would write this continuation" in grounds


def test_silence_that_chooses_as_well_is_told() -> None:
    scores = scores_of(0.6)
    assert "length" not in own_answers_verdict({OWN_ANSWERS: scores}, "95 %", 0.05).claim
    scores["silence"]["ua"] = 0.49
    assert "length" not in own_answers_verdict({OWN_ANSWERS: scores}, "95 %", 0.05).claim
    scores["silence"]["ua"] = 0.51  # the voice's interval starts at 0.5
    verdict = own_answers_verdict({OWN_ANSWERS: scores}, "95 %", 0.05)
    assert verdict.claim.endswith("But the length of the clip may be all that counts.")
    assert "Silence as long as the clip reaches 0.51." in verdict.grounds
    nothing = own_answers_verdict({OWN_ANSWERS: scores | {"voice": scores["stage1"]}}, "95 %", 0.05)
    assert "length" not in nothing.claim


def page_with(folder: Path, own: dict[str, Any]) -> str:
    paths = prepare(folder)
    paths["metrics"].write_text(json.dumps(json.loads(paths["metrics"].read_text()) | own))
    report.main(**paths)
    return paths["output"].read_text()


def test_the_page_has_a_row_for_each_system_and_a_column_for_each_kind_of_words(tmp_path: Path) -> None:
    whole = scores_of(0.6)
    del whole["shuffled"], whole["stage1"]["p"], whole["stage1"]["ua_unnamed"]
    page = page_with(tmp_path, {f"{OWN_ANSWERS}acted": whole, f"{NEW_WORDS}acted": scores_of(0.3)})
    section = page[page.index("<h2>Own answers</h2>") : page.index("<h2>Words</h2>")]
    assert [str(escape(given)) in section for given in GIVEN.values()] == [system != "shuffled" for system in GIVEN]
    assert '<th scope="col">UA %, all words</th><th scope="col">UA %, new words</th>' in section
    assert "<td>the clip</td><td>60.0 <small>(50.0 to 70.0)</small></td><td>30.0 <small>" in section
    assert "<td>26.0</td><td>27.0</td><td>0.0010</td><td>1234</td>" in section
    assert "(3 of 48)" in section
    assert "<b>The voice chooses among the language model&#39;s own answers, but it was not seen for" in page
    assert "7 of 1234 clips have words that no other speaker says" in section


def test_a_run_without_own_answers_has_no_such_section(tmp_path: Path) -> None:
    assert "Own answers" not in page_with(tmp_path, {})


def test_every_system_has_words() -> None:
    assert set(GIVEN) == set(OWN_SYSTEMS)
