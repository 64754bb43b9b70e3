"""The chat template of an LLM, rendered the same way in every stage and on every day.

- If a template has no system role (Gemma 2), the system message is the first paragraph of the user message.
- A template that writes today's date (Llama 3, SmolLM3, Granite) writes DATE instead. So answers that were generated on
  different days have equal prompts.
- A template that begins an answer with a thought ends it at once, with nothing in it.
"""

import re
from collections.abc import Callable, Sequence
from datetime import datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any

from pipeline.stage import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

DATE = datetime(2024, 7, 26)  # Llama 3's template writes this date if it cannot ask for today's
ASKS_FOR_DATE = "strftime_now"  # the function that templates call
SENTINEL = "[[CONTENT]]"  # placeholder for the user's text

_SYSTEM = "[[SYSTEM]]"
_TAG = r"(?:think|thinking|thought|reasoning)"
_THOUGHT_START, _THOUGHT_END = rf"(?i:[<\[]{_TAG}[>\]])", rf"(?i:[<\[]/{_TAG}[>\]])"

Message = dict[str, str]


def without_thoughts(answer: str) -> str:
    """Return an answer without what a model thinks first: <think>…</think> and tags like it.

    The first tag may be missing, because a template may write it. A thought without an end leaves nothing.
    """
    after = re.split(_THOUGHT_END, answer)[-1]
    return re.split(_THOUGHT_START, after, maxsplit=1)[0].strip()


def has_thoughts(answer: str) -> bool:
    """Return whether an answer has a tag of a thought."""
    return re.search(f"{_THOUGHT_START}|{_THOUGHT_END}", answer) is not None


class ChatTemplate:
    """The chat template of a tokenizer."""

    def __init__(self, tokenizer: "PreTrainedTokenizerBase") -> None:
        self.tokenizer = tokenizer
        text = str(tokenizer.chat_template)
        self.switches: dict[str, Any] = {"enable_thinking": False}
        """The templates of thinking models then open and close an empty thought themselves; others ignore it."""
        if "date_string" in text:
            self.switches["date_string"] = DATE.strftime("%d %b %Y")

    def messages(self, system: str, user: str) -> list[Message]:
        """Return the messages of a prompt."""
        if self.has_system_role:
            return [{"role": "system", "content": system}, {"role": "user", "content": user}]
        return [{"role": "user", "content": f"{system.strip()}\n\n{user}" if system.strip() else user}]

    def render(self, messages: Sequence[Message]) -> str:
        """Return the prompt of messages, up to the start of the answer."""
        chat = self._apply(messages, DATE.strftime)
        opened = re.search(rf"({_THOUGHT_START})\s*\Z", chat)
        if opened is None:
            return chat
        tag: str = opened[1]
        return f"{chat[: opened.end(1)]}\n\n{tag[0]}/{tag[1:]}\n\n"

    def check_services(self, messages: Sequence[Message]) -> None:
        """Raise UserError if a service that gets messages would make another prompt of them.

        It writes its own date, and it does not close a thought.
        """
        if self._apply(messages, datetime(2001, 2, 3).strftime) != self.render(messages):
            raise UserError(
                "models.llm: chat template: found one that writes the date or opens a thought, so that a service would "
                "make other prompts of messages; expected prompts as token ids, without --chat"
            )

    def turn_end(self, ends: Sequence[int]) -> int:
        """Return the token after an assistant's message: one of `ends`, or a special token directly after it.

        It may differ from the tokenizer's end token, the first of `ends`: Gemma's is <eos>, but its turns end with
        <end_of_turn>. GLM-4 has no token of its own for this, and its turns end with the next <|user|>. A template
        without such a token ends turns with the tokenizer's end token.
        """
        after = self._after_answer()
        if known := [token for token in after or self._after_question() if token in ends]:
            return known[0]
        added = self.tokenizer.added_tokens_decoder.get(after[0]) if after else None
        return after[0] if added is not None and added.special else ends[0]

    def _after_answer(self) -> list[int]:
        """Return the ids between an assistant's message and the next message; none if the template writes neither."""
        import jinja2

        turns = [{"role": role, "content": SENTINEL} for role in ("user", "assistant", "user")]
        try:
            chat = self.tokenizer.apply_chat_template(turns, tokenize=False, strftime_now=DATE.strftime)
        except jinja2.TemplateError:
            return []
        assert isinstance(chat, str)
        texts = chat.split(SENTINEL)
        return self._ids(texts[2]) if len(texts) == 4 else []

    def _after_question(self) -> list[int]:
        """Return the ids between a user's message and the answer; none if the template writes no user message."""
        import jinja2

        try:
            return self._ids(self.render(self.messages("", SENTINEL)).partition(SENTINEL)[2])
        except (UserError, jinja2.TemplateError):
            return []

    def _ids(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False).input_ids)

    @cached_property
    def has_system_role(self) -> bool:
        """Whether the template writes a system message; raises UserError if it does not write the user's either."""
        import jinja2

        both = [{"role": "system", "content": _SYSTEM}, {"role": "user", "content": SENTINEL}]
        refused: jinja2.TemplateError | None = None
        try:
            chat = self._apply(both, DATE.strftime)
        except jinja2.TemplateError as error:
            chat, refused = "", error
        if _SYSTEM in chat or (SENTINEL not in chat and refused is None):
            return True
        try:
            chat_without = self._apply([{"role": "user", "content": f"{_SYSTEM}\n\n{SENTINEL}"}], DATE.strftime)
        except jinja2.TemplateError:
            chat_without = ""
        if _SYSTEM in chat_without and SENTINEL in chat_without:
            return False
        if refused is None:
            raise UserError(f"models.llm: chat template: found {chat!r}, expected both messages in it")
        raise UserError(f"models.llm: chat template: {refused}; expected one with a system message or a user message")

    def _apply(self, messages: Sequence[Message], strftime: Callable[[str], str]) -> str:
        chat = self.tokenizer.apply_chat_template(
            list(messages), tokenize=False, add_generation_prompt=True, strftime_now=strftime, **self.switches
        )
        assert isinstance(chat, str)
        return chat
