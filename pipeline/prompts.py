"""Prompts as token ids in pieces, made the same way for generation, packing and evaluation.

A prompt is the LLM's chat template with a system message and a user message. The user message consists of an
instruction and the content: a transcript, or the embeddings of a clip. The pieces are tokenised separately, so that no
token crosses their borders. So the ids around the content are the same whatever the content is:

    before  <|im_start|>system\\n{system}<|im_end|>\\n<|im_start|>user\\n{instruction}
    content {transcript}, or nothing in a prompt for speech
    after   <|im_end|>\\n<|im_start|>assistant\\n
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator

from pipeline.params import Section
from pipeline.stage import UserError
from pipeline.weights.source import loading

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TEMPLATE_SWITCHES: dict[str, Any] = {"enable_thinking": False}
"""With this switch, the chat template of a thinking model writes an empty thinking block.

Other templates ignore the switch.
"""

SENTINEL = "[[CONTENT]]"  # placeholder for the instruction and the content in the template


def known_places(*known: str) -> AfterValidator:
    """Check that a text has no {place} except the known ones."""

    def check(text: str) -> str:
        if unknown := set(re.findall(r"\{(\w*)\}", text)) - set(known):
            expected = " and ".join(f"{{{name}}}" for name in known)
            raise ValueError(f"only the placeholders {expected}, not {{{min(unknown)}}}")
        return text

    return AfterValidator(check)


class Prompt(Section):
    """One prompt of the section `prompts`, for a transcript and for a clip."""

    system: str
    """The system message."""
    text: Annotated[str, known_places("emotion", "options")]
    """Text before a transcript; {emotion} is the row's emotion, and {options} lists the classes."""
    speech: Annotated[str, known_places("options")]
    """Text before the embeddings of a clip; it does not name the emotion, which the model must hear."""


class PromptsParams(Section):
    """The section `prompts`: a prompt for each alignment, and one for emotion recognition."""

    semantic: Prompt
    emotion: Prompt
    recognition: Prompt


@dataclass(frozen=True, slots=True)
class PromptIds:
    """Token ids of a prompt, up to the start of the answer; `content` is empty in a prompt for speech."""

    before: tuple[int, ...]
    content: tuple[int, ...]
    after: tuple[int, ...]

    @property
    def ids(self) -> tuple[int, ...]:
        """All the ids in order."""
        return self.before + self.content + self.after


class Prompter:
    """Makes prompts with one tokenizer; `end_id` is the token that ends a turn."""

    def __init__(self, tokenizer: "PreTrainedTokenizerBase") -> None:
        """Take the tokenizer of a chat model; raises UserError if it has no chat template or no end token."""
        if tokenizer.chat_template is None:
            raise UserError(f"models.llm: {tokenizer.name_or_path}: no chat template; expected a chat model")
        if not isinstance(tokenizer.eos_token_id, int):
            raise UserError(f"models.llm: {tokenizer.name_or_path}: no end token; expected a chat model")
        self.tokenizer = tokenizer
        self.end_id: int = tokenizer.eos_token_id
        self._shell = cache(self._make_shell)
        self._instruction = cache(self.content_ids)

    @classmethod
    def load(cls, folder: Path) -> "Prompter":
        """Load the tokenizer of the model in `folder`."""
        from transformers import AutoTokenizer

        with loading(folder):
            tokenizer = AutoTokenizer.from_pretrained(folder)
        return cls(tokenizer)

    def text(
        self, prompt: Prompt, transcript: str, *, emotion: str | None = None, options: Sequence[str] = ()
    ) -> PromptIds:
        """Return the prompt with a transcript as its content; `emotion` fills {emotion}, `options` fill {options}."""
        if emotion is None and "{emotion}" in prompt.text:
            raise UserError("prompts: the prompt text contains the placeholder {emotion}, but the row has no emotion")
        return self._ids(prompt.system, _name_emotion(prompt.text, emotion), options, self.content_ids(transcript))

    def speech(self, prompt: Prompt, *, options: Sequence[str] = ()) -> PromptIds:
        """Return the prompt around the embeddings of a clip; `options` fill {options}."""
        return self._ids(prompt.system, prompt.speech, options, ())

    def words(self, system: str, said: str) -> PromptIds:
        """Return the prompt with a user message that is only text, without an instruction."""
        return self._ids(system, "", (), self.content_ids(said))

    def message_ids(self, messages: list[dict[str, str]]) -> tuple[int, ...]:
        """Return the ids that a service makes from messages: it tokenises the prompt as one piece."""
        return self._special_ids(self._render(messages))

    def decode(self, token_ids: Sequence[int]) -> str:
        """Return the text of an answer, without special tokens and without white space at its ends."""
        text = self.tokenizer.decode(list(token_ids), skip_special_tokens=True)
        assert isinstance(text, str)
        return text.strip()

    def _ids(self, system: str, instruction: str, options: Sequence[str], content: tuple[int, ...]) -> PromptIds:
        head, tail = self._shell(system)
        instruction = instruction.replace("{options}", list_options(options))
        return PromptIds(head + self._instruction(instruction), content, tail)

    def _make_shell(self, system: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return the ids of the chat template before and after the user's text."""
        chat = self._render(_make_messages(system, SENTINEL))
        if chat.count(SENTINEL) != 1 or system not in chat:
            raise UserError(f"models.llm: chat template: found {chat!r}, expected both messages in it")
        head, tail = chat.split(SENTINEL)
        return self._special_ids(head), self._special_ids(tail)

    def _render(self, messages: list[dict[str, str]]) -> str:
        import jinja2

        try:
            chat = self.tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=True, **TEMPLATE_SWITCHES
            )
        except jinja2.TemplateError as error:
            raise UserError(f"models.llm: chat template: {error}; expected one with a system message") from None
        assert isinstance(chat, str)
        return chat

    def _special_ids(self, text: str) -> tuple[int, ...]:
        return tuple(self.tokenizer(text, add_special_tokens=False).input_ids)

    def content_ids(self, text: str) -> tuple[int, ...]:
        """Tokenise the user's text; special tokens that are written in it are treated as plain text."""
        return tuple(self.tokenizer(text, add_special_tokens=False, split_special_tokens=True).input_ids)


def as_messages(prompt: Prompt, transcript: str, *, emotion: str | None = None) -> list[dict[str, str]]:
    """Return a transcript's prompt as messages, for services that apply the chat template themselves."""
    instruction = _name_emotion(prompt.text, emotion).replace("{options}", list_options(()))
    return _make_messages(prompt.system, instruction + transcript)


def list_options(options: Sequence[str]) -> str:
    """Return "neutral, sad, angry, happy, or surprise"."""
    if len(options) < 3:
        return " or ".join(options)
    return f"{', '.join(options[:-1])}, or {options[-1]}"


def _make_messages(system: str, user: str) -> list[dict[str, str]]:
    return [{"role": "system", "content": system}, {"role": "user", "content": user}]


def _name_emotion(text: str, emotion: str | None) -> str:
    return text.replace("{emotion}", emotion or "")
