"""Prompts as token ids in pieces, made the same way for generation, packing and evaluation.

A prompt is the LLM's chat template with a system message and a user message. The user message consists of an
instruction and the content: a transcript, or the embeddings of a clip. The pieces are tokenised separately, so that no
token crosses their borders. So the ids around the content are the same whatever the content is:

    before  <|im_start|>system\\n{system}<|im_end|>\\n<|im_start|>user\\n{instruction}
    content {transcript}, or nothing in a prompt for speech
    after   <|im_end|>\\n<|im_start|>assistant\\n
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import AfterValidator

from pipeline.params import Section
from pipeline.stage import UserError
from pipeline.weights.chat_template import SENTINEL, ChatTemplate, Message, has_thoughts, without_thoughts
from pipeline.weights.source import loading

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Parts of a prompt that show whether a tokenizer keeps the text of a chat template.
_PROBE_SYSTEM, _PROBE_INSTRUCTION = "Be kind.", "Say it: "
_PROBES = ("dogs bark, 2 of them", "it's 11 o'clock")


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
    """Makes prompts with one tokenizer, and knows the tokens that end an answer.

    `end_id` ends a turn in the chat template; `end_ids` are all tokens that end an answer, `end_id` first.
    """

    def __init__(self, tokenizer: "PreTrainedTokenizerBase", end_ids: Sequence[int] = ()) -> None:
        """Take the tokenizer of a chat model, and the tokens at which the model's own generation stops.

        Raises UserError if it has no chat template or no end token.
        """
        if tokenizer.chat_template is None:
            raise UserError(f"models.llm: {tokenizer.name_or_path}: no chat template; expected a chat model")
        if not isinstance(tokenizer.eos_token_id, int):
            raise UserError(f"models.llm: {tokenizer.name_or_path}: no end token; expected a chat model")
        self.tokenizer = tokenizer
        self.template = ChatTemplate(tokenizer)
        ends = (tokenizer.eos_token_id, *end_ids)
        self.end_id = self.template.turn_end(ends)
        self.end_ids = tuple(dict.fromkeys([self.end_id, *ends]))
        self._shell = cache(self._make_shell)
        self._instruction = cache(self.content_ids)

    @classmethod
    def load(cls, folder: Path) -> "Prompter":
        """Load the tokenizer of the model in `folder`.

        A tokenizer of bytes whose configuration names the class of another tokenizer loses its spaces in that class. It
        is loaded as its own file describes it.
        """
        from transformers import AutoTokenizer, PreTrainedTokenizerFast

        with loading(folder):
            tokenizer = AutoTokenizer.from_pretrained(folder)
            if (folder / "tokenizer.json").is_file() and not _keeps_spaces(tokenizer):
                tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
        return cls(tokenizer, _read_end_ids(folder))

    def text(
        self, prompt: Prompt, transcript: str, *, emotion: str | None = None, options: Sequence[str] = ()
    ) -> PromptIds:
        """Return the prompt with a transcript as its content; `emotion` fills {emotion}, `options` fill {options}."""
        return self.around(prompt, self.content_ids(transcript), emotion=emotion, options=options)

    def around(
        self, prompt: Prompt, content: Sequence[int], *, emotion: str | None = None, options: Sequence[str] = ()
    ) -> PromptIds:
        """Return the prompt as `text` does, for a transcript that was tokenised before."""
        if emotion is None and "{emotion}" in prompt.text:
            raise UserError("prompts: the prompt text contains the placeholder {emotion}, but the row has no emotion")
        return self._ids(prompt.system, _name_emotion(prompt.text, emotion), options, tuple(content))

    def speech(self, prompt: Prompt, *, options: Sequence[str] = ()) -> PromptIds:
        """Return the prompt around the embeddings of a clip; `options` fill {options}."""
        return self._ids(prompt.system, prompt.speech, options, ())

    def words(self, system: str, said: str) -> PromptIds:
        """Return the prompt with a user message that is only text, without an instruction."""
        return self._ids(system, "", (), self.content_ids(said))

    def messages(self, prompt: Prompt, transcript: str, *, emotion: str | None = None) -> list[Message]:
        """Return a transcript's prompt as messages, for services that apply the chat template themselves."""
        instruction = _name_emotion(prompt.text, emotion).replace("{options}", list_options(()))
        return self.template.messages(prompt.system, instruction + transcript)

    def message_ids(self, messages: Sequence[Message]) -> tuple[int, ...]:
        """Return the ids that a service makes from messages: it tokenises the prompt as one piece."""
        return tuple(self.tokenizer(self.template.render(messages), add_special_tokens=False).input_ids)

    def decode(self, token_ids: Sequence[int]) -> str:
        """Return the text of an answer, without special tokens and without white space at its ends.

        Tags of thoughts are kept, even if they are special tokens.
        """
        text, start = "", 0
        for place, token in enumerate(token_ids):
            if token in self._thought_tags:
                text += self._spoken(token_ids[start:place]) + self._thought_tags[token]
                start = place + 1
        return (text + self._spoken(token_ids[start:])).strip()

    def answer(self, token_ids: Sequence[int]) -> str:
        """Return the text of an answer as `decode` does, without what the LLM thinks before it."""
        return without_thoughts(self.decode(token_ids))

    def _spoken(self, token_ids: Sequence[int]) -> str:
        text = self.tokenizer.decode(list(token_ids), skip_special_tokens=True)
        assert isinstance(text, str)
        return text

    @cached_property
    def _thought_tags(self) -> dict[int, str]:
        """The special tokens that begin or end a thought."""
        added = self.tokenizer.added_tokens_decoder.items()
        return {token: str(entry) for token, entry in added if entry.special and has_thoughts(str(entry))}

    def _ids(self, system: str, instruction: str, options: Sequence[str], content: tuple[int, ...]) -> PromptIds:
        head, tail = self._shell(system)
        instruction = instruction.replace("{options}", list_options(options))
        return PromptIds(head + self._instruction(instruction), content, tail)

    def _make_shell(self, system: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return the ids of the chat template before and after the user's text."""
        return self._split(system, self._anchor)

    def _split(self, system: str, anchor: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
        chat = self.template.render(self.template.messages(system, SENTINEL))
        if chat.count(SENTINEL) != 1 or system.strip() not in chat:
            raise UserError(f"models.llm: chat template: found {chat!r}, expected both messages in it")
        head, tail = chat.split(SENTINEL)
        return self._piece(head, ""), self._piece(tail, anchor)

    @cached_property
    def _anchor(self) -> str:
        """Text before which pieces are tokenised, and whose tokens are then removed; empty if none is needed.

        SentencePiece puts a space before every text. After a line break it puts none. Raises UserError if the pieces of
        a prompt do not decode to the same text as the whole prompt.
        """
        found = ""
        for anchor in ("", "\n"):
            found = next((difference for text in _PROBES if (difference := self._difference(text, anchor))), "")
            if not found:
                return anchor
        raise UserError(f"models.llm: {self.tokenizer.name_or_path}: tokenizer: {found}")

    def _difference(self, text: str, anchor: str) -> str:
        """Describe how a prompt in pieces differs from the whole prompt; empty if both read the same."""
        head, tail = self._split(_PROBE_SYSTEM, anchor)
        pieces = [self._piece(piece, anchor, split_special_tokens=True) for piece in (_PROBE_INSTRUCTION, text)]
        found = self._decode([*head, *pieces[0], *pieces[1], *tail])
        messages = self.template.messages(_PROBE_SYSTEM, _PROBE_INSTRUCTION + text)
        expected = self._decode(self.message_ids(messages))
        if _PROBE_INSTRUCTION + text not in expected:
            return f"found a prompt that reads {expected!r}, expected {_PROBE_INSTRUCTION + text!r} in it"
        return "" if found == expected else f"found a prompt in pieces that reads {found!r}, expected {expected!r}"

    def _decode(self, ids: Sequence[int]) -> str:
        text = self.tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)
        assert isinstance(text, str)
        return text

    def _piece(self, text: str, anchor: str, **options: bool) -> tuple[int, ...]:
        ids = tuple(self.tokenizer(anchor + text, add_special_tokens=False, **options).input_ids)
        before = tuple(self.tokenizer(anchor, add_special_tokens=False).input_ids) if anchor else ()
        if ids[: len(before)] != before:  # the anchor has merged with the text
            return tuple(self.tokenizer(text, add_special_tokens=False, **options).input_ids)
        return ids[len(before) :]

    def content_ids(self, text: str) -> tuple[int, ...]:
        """Tokenise the user's text; special tokens that are written in it are treated as plain text."""
        return self._piece(text, self._anchor, split_special_tokens=True)

    def all_content_ids(self, texts: Sequence[str]) -> list[tuple[int, ...]]:
        """Tokenise many texts as `content_ids` does, several times as fast."""
        if not texts:
            return []
        anchor = self._anchor
        found = self.tokenizer(
            [anchor + text for text in texts], add_special_tokens=False, split_special_tokens=True
        ).input_ids
        before = self._piece(anchor, "")
        return [
            tuple(ids[len(before) :]) if tuple(ids[: len(before)]) == before else self.content_ids(text)
            for ids, text in zip(found, texts, strict=True)
        ]

    def answer_ids(self, text: str) -> tuple[int, ...]:
        """Tokenise a text as the start of an answer, as the LLM itself begins one."""
        return self._piece(text, "", split_special_tokens=True)


def _keeps_spaces(tokenizer: "PreTrainedTokenizerBase") -> bool:
    text = _PROBE_INSTRUCTION + _PROBES[0]
    decoded = tokenizer.decode(tokenizer(text, add_special_tokens=False).input_ids, clean_up_tokenization_spaces=False)
    return text in decoded


def _read_end_ids(folder: Path) -> tuple[int, ...]:
    """Return the tokens at which a model's own generation stops, as its generation config or its config names them."""
    for name in ("generation_config.json", "config.json"):
        found = json.loads((folder / name).read_text()).get("eos_token_id") if (folder / name).is_file() else None
        if found is not None:
            return tuple(found) if isinstance(found, list) else (found,)
    return ()


def list_options(options: Sequence[str]) -> str:
    """Return "neutral, sad, angry, happy, or surprise"."""
    if len(options) < 3:
        return " or ".join(options)
    return f"{', '.join(options[:-1])}, or {options[-1]}"


def _name_emotion(text: str, emotion: str | None) -> str:
    return text.replace("{emotion}", emotion or "")
