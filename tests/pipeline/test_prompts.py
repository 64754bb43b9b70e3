from pathlib import Path

import pytest
from pydantic import ValidationError
from transformers import AutoTokenizer

from pipeline import params
from pipeline.prompts import Prompt, Prompter, PromptsParams, list_options
from pipeline.stage import UserError
from pipeline.weights.source import ModelsParams

PROMPT = Prompt(system="Be kind.", text="Continue '{emotion}': ", speech="Continue: ")
CHOICE = Prompt(system="Be kind.", text="One of {options}: ", speech="One of {options}:\n\nSpeech: ")


@pytest.fixture
def prompter(tiny_models: ModelsParams) -> Prompter:
    return Prompter.load(Path(tiny_models.llm.source))


def test_a_prompt_with_a_transcript_reads_as_the_chat_template_says(prompter: Prompter) -> None:
    prompt = prompter.text(PROMPT, "dogs bark", emotion="sad")
    decode = prompter.tokenizer.decode
    assert decode(list(prompt.before)) == "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nContinue 'sad': "
    assert decode(list(prompt.content)) == "dogs bark"
    assert decode(list(prompt.after)) == "<|im_end|>\n<|im_start|>assistant\n"
    assert prompt.ids == prompt.before + prompt.content + prompt.after


def test_the_ids_are_those_of_the_golden_prompt(prompter: Prompter) -> None:
    prompt = prompter.text(Prompt(system="S", text="T ", speech=""), "hi")
    assert prompter.tokenizer.convert_ids_to_tokens(list(prompt.ids)) == [
        *("<|im_start|>", *"system", "Ċ", "S", "<|im_end|>", "Ċ"),
        *("<|im_start|>", *"user", "Ċ", "T", "Ġ", "h", "i", "<|im_end|>", "Ċ"),
        *("<|im_start|>", *"assistant", "Ċ"),
    ]
    assert prompter.end_id == prompter.tokenizer.convert_tokens_to_ids("<|im_end|>")


def test_speech_takes_the_place_of_the_transcript_and_changes_nothing_around_it(prompter: Prompter) -> None:
    prompt = Prompt(system="S", text="Continue: ", speech="Continue: ")
    spoken, written = prompter.speech(prompt), prompter.text(prompt, "dogs bark")
    assert (spoken.before, spoken.after) == (written.before, written.after)
    assert spoken.content == ()


def test_no_token_spans_a_border(tiny_models: ModelsParams) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_models.llm.source)
    tokenizer.add_tokens([": d", "k<|im_end|>", "user\nC"])  # would merge if the pieces were tokenised together
    prompt = Prompter(tokenizer).text(PROMPT, "dogs bark", emotion="sad")
    assert tokenizer.decode(list(prompt.content)) == "dogs bark"
    assert not {": d", "k<|im_end|>", "user\nC"} & set(tokenizer.convert_ids_to_tokens(list(prompt.ids)))


def test_a_transcript_cannot_end_the_turn(prompter: Prompter) -> None:
    prompt = prompter.text(PROMPT, "no<|im_end|>", emotion="sad")
    assert prompter.end_id not in prompt.content
    assert prompter.tokenizer.decode(list(prompt.content)) == "no<|im_end|>"


def test_the_options_are_listed_in_both_prompts(prompter: Prompter) -> None:
    options = ("neutral", "sad", "angry", "happy", "surprise")
    for prompt in (prompter.text(CHOICE, "hi", options=options), prompter.speech(CHOICE, options=options)):
        text = prompter.tokenizer.decode(list(prompt.before))
        assert "One of neutral, sad, angry, happy, or surprise:" in text


@pytest.mark.parametrize(
    ("options", "expected"),
    [(["sad"], "sad"), (["sad", "happy"], "sad or happy"), (["sad", "happy", "calm"], "sad, happy, or calm")],
)
def test_options_read_as_english(options: list[str], expected: str) -> None:
    assert list_options(options) == expected


def test_an_answer_is_decoded_without_special_tokens_and_outer_space(prompter: Prompter) -> None:
    assert prompter.decode(prompter.tokenizer(" well \n<|im_end|>").input_ids) == "well"


def test_a_prompt_for_an_emotion_needs_one(prompter: Prompter) -> None:
    with pytest.raises(UserError, match=r"contains the placeholder \{emotion\}, but the row has no emotion"):
        prompter.text(PROMPT, "hi")


def test_a_clip_is_not_told_its_emotion() -> None:
    with pytest.raises(ValidationError, match=r"only the placeholders \{options\}, not \{emotion\}"):
        Prompt(system="", text="", speech="It is '{emotion}': ")


def test_a_misspelt_place_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"only the placeholders \{emotion\} and \{options\}, not \{emotions\}"):
        Prompt(system="", text="{emotions}", speech="")


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ messages[1]['content'] }}", "expected both messages in it"),
        ("{{ messages[0]['content'] }}", "expected both messages in it"),
        ("{{ messages[0]['content'] }}{{ messages[1]['content'] * 2 }}", "expected both messages in it"),
        ("{{ raise_exception('System role not supported') }}", "System role not supported; expected one with a system"),
        (None, "no chat template; expected a chat model"),
    ],
)
def test_a_template_that_loses_a_message_is_refused(
    tiny_models: ModelsParams, template: str | None, message: str
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_models.llm.source)
    tokenizer.chat_template = template
    with pytest.raises(UserError, match=message):
        Prompter(tokenizer).speech(PROMPT)


def test_a_tokenizer_without_an_end_token_is_refused(tiny_models: ModelsParams) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_models.llm.source)
    tokenizer.eos_token = None
    with pytest.raises(UserError, match="no end token; expected a chat model"):
        Prompter(tokenizer)


def test_the_demos_prompts_are_those_of_the_paper(root: Path) -> None:
    prompts = params.load(root / "params.yaml", "prompts", PromptsParams)
    assert prompts.semantic.text == prompts.semantic.speech == "Continue the following sentence in a coherent style: "
    assert prompts.recognition.speech.endswith("\n\nSpeech: ")
