"""Templates of many kinds: a prompt reads as its template on every day, without a thought and with every message."""

import json
import shutil
from pathlib import Path

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from pipeline.generate.run import open_run
from pipeline.generate.signature import make_signature
from pipeline.prompts import Prompt, Prompter
from pipeline.stage import UserError
from pipeline.weights.chat_template import ChatTemplate, has_thoughts, without_thoughts
from tests.conftest import character_tokenizer

PROMPT = Prompt(system="Be kind.", text="Continue: ", speech="Continue: ")
LLAMA_3 = (
    "{% if not date_string is defined %}{% if strftime_now is defined %}"
    "{% set date_string = strftime_now('%d %b %Y') %}"
    "{% else %}{% set date_string = '26 Jul 2024' %}{% endif %}{% endif %}Today Date: {{ date_string }}\n"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content | trim }}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SMOLLM3 = (
    "Today Date: {{ strftime_now('%d %B %Y') }}\n{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}"
    "<|im_end|>{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
GEMMA_2 = (
    "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content | trim }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>model\n{% endif %}"
)
DROPS_SYSTEM = (
    "{% for m in messages if m.role != 'system' %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
R1 = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}"
)
LLAMA_2 = "{{ bos_token }}[INST] <<SYS>>\n{{ messages[0].content }}\n<</SYS>>\n\n{{ messages[1].content }} [/INST]"


def with_template(template: str) -> Prompter:
    tokenizer = character_tokenizer()
    tokenizer.chat_template = template
    return Prompter(tokenizer)


def read(prompter: Prompter, ids: tuple[int, ...]) -> str:
    return str(prompter.tokenizer.decode(list(ids), clean_up_tokenization_spaces=False))


@pytest.mark.parametrize("template", [LLAMA_3, SMOLLM3])
def test_a_template_that_writes_the_date_writes_the_same_every_day(template: str) -> None:
    text = read(with_template(template), with_template(template).text(PROMPT, "dogs bark").ids)
    assert text.startswith(("Today Date: 26 Jul 2024\n", "Today Date: 26 July 2024\n"))


def test_services_get_the_date_if_they_can_and_no_messages_if_they_cannot() -> None:
    given = with_template(LLAMA_3).template
    assert given.switches == {"enable_thinking": False, "date_string": "26 Jul 2024"}
    given.check_services(given.messages("s", "u"))
    for template in (SMOLLM3, R1):
        other = with_template(template).template
        with pytest.raises(UserError, match="expected prompts as token ids, without --chat"):
            other.check_services(other.messages("s", "u"))
    plain = ChatTemplate(character_tokenizer())
    assert plain.switches == {"enable_thinking": False}
    plain.check_services(plain.messages("s", "u"))


def test_the_date_is_part_of_the_signature_and_others_keep_their_names(project: Path, tmp_path: Path) -> None:
    run = open_run("semantic", project / "params.yaml")
    assert run.signature.date is None
    assert "date" not in run.signature.content
    folder = Path(shutil.copytree(run.model, tmp_path / "dated"))
    tokenizer = character_tokenizer()
    tokenizer.chat_template = SMOLLM3
    tokenizer.save_pretrained(folder)
    signature = make_signature(run.settings, run.prompt, run.llm, folder)
    assert (signature.date, signature.content["date"]) == ("2024-07-26", "2024-07-26")


@pytest.mark.parametrize("template", [GEMMA_2, DROPS_SYSTEM])
def test_without_a_system_role_the_system_message_begins_the_users(template: str) -> None:
    prompter = with_template(template)
    assert not prompter.template.has_system_role
    prompt = prompter.text(PROMPT, "dogs bark")
    assert "user\nBe kind.\n\nContinue: dogs bark<|im_end|>" in read(prompter, prompt.ids)
    assert prompter.messages(PROMPT, "dogs bark") == [{"role": "user", "content": "Be kind.\n\nContinue: dogs bark"}]
    nothing = Prompt(system="", text="Continue: ", speech="Continue: ")
    assert "user\nContinue: dogs bark<|im_end|>" in read(prompter, prompter.text(nothing, "dogs bark").ids)


def test_white_space_around_a_system_message_is_no_error() -> None:
    block = Prompt(system="Be kind.\n", text="Continue: ", speech="Continue: ")
    prompter = with_template(LLAMA_3)
    assert "system\nBe kind.<|im_end|>" in read(prompter, prompter.text(block, "dogs bark").ids)


def test_a_thought_that_the_template_opens_is_closed() -> None:
    prompter = with_template(R1)
    text = read(prompter, prompter.text(PROMPT, "dogs bark").ids)
    assert text.endswith("<|im_start|>assistant\n<think>\n\n</think>\n\n")


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("<think>\nhm\n</think>\n\nYes.", "Yes."),
        ("hm</think>Yes.", "Yes."),
        ("<think>hm", ""),
        ("[THINK]hm[/THINK] Yes.", "Yes."),
        ("Yes.", "Yes."),
    ],
)
def test_an_answer_is_what_follows_the_thought(answer: str, expected: str) -> None:
    assert without_thoughts(answer) == expected
    assert has_thoughts(answer) == (answer != "Yes.")
    prompter = Prompter(character_tokenizer())
    assert prompter.answer(prompter.answer_ids(answer)) == expected


def test_tags_of_thoughts_that_are_special_tokens_are_found() -> None:
    tokenizer = character_tokenizer()
    tags = [AddedToken("[THINK]", special=True), AddedToken("[/THINK]", special=True)]
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", *tags]})
    prompter = Prompter(tokenizer)
    ids = tokenizer("[THINK]hm[/THINK]Yes.", add_special_tokens=False).input_ids
    assert prompter.decode(ids) == "[THINK]hm[/THINK]Yes."
    assert prompter.answer(ids) == "Yes."


def sentencepiece_like() -> PreTrainedTokenizerFast:
    """A tokenizer that puts a space before every text, as that of Llama 2."""
    backend = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=False)
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    specials = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=specials)
    texts = ["Say it: dogs bark, 2 of them it's 11 o'clock", "[INST] <<SYS>> Be kind. <</SYS>> Continue: [/INST]"]
    backend.train_from_iterator([*texts, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"], trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    tokenizer.chat_template = LLAMA_2
    return tokenizer


def test_pieces_of_a_tokenizer_that_adds_spaces_read_as_the_whole_prompt() -> None:
    prompter = Prompter(sentencepiece_like())
    prompt = prompter.text(PROMPT, "dogs bark")
    whole = prompter.message_ids(prompter.messages(PROMPT, "dogs bark"))
    assert read(prompter, prompt.ids) == read(prompter, whole)
    assert "Continue: dogs bark [/INST]" in read(prompter, prompt.ids)
    assert prompt.before + prompter.content_ids("kids") + prompt.after == prompter.text(PROMPT, "kids").ids


def test_bytes_in_the_class_of_another_tokenizer_keep_their_spaces(tmp_path: Path) -> None:
    character_tokenizer().save_pretrained(tmp_path)
    config = tmp_path / "tokenizer_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"tokenizer_class": "LlamaTokenizer"}))
    lost = AutoTokenizer.from_pretrained(tmp_path)
    prompter = Prompter.load(tmp_path)
    assert "Continue: dogs bark" in read(prompter, prompter.text(PROMPT, "dogs bark").ids)
    assert "Continue: dogs bark" not in lost.decode(lost("Continue: dogs bark", add_special_tokens=False).input_ids)


def test_a_tokenizer_that_loses_text_is_refused() -> None:
    tokenizer = character_tokenizer()
    tokenizer.backend_tokenizer.decoder = decoders.Fuse()
    with pytest.raises(
        UserError, match=r"models\.llm: .*: tokenizer: found a prompt that reads .+, expected 'Say it: "
    ):
        Prompter(tokenizer).text(PROMPT, "dogs bark")
