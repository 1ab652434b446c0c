"""Conversations -> ids: a chat template's own text is read with its special tokens, people's text is not.

Knows nothing of sound; an audio part is whatever ids the caller makes of it. The law it keeps: no string in a
message, tool or document yields a special, control or audio id. Each content string is encoded on its own and
its ids are put where the template put the string.

A template is rendered with marks around every string that came from outside. Marks are private-use characters
with a random number, so nobody can write one; what a template does to the string inside (trimming, escaping,
joining) is kept. If a template cuts a string in two, the marks no longer pair, and then the special tokens
that it spells are still stand-ins that become plain text.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

# Whitespace that a template trims away as any other, but that no template writes.
_OUTER_SPACE = "\u205f\u2028\u205f"
_CUTS = "expected a chat template that keeps strings whole, got one that cuts or escapes them"
_PLAIN_KEYS = ("role", "type")  # templates compare these, so they stay as they are and are checked instead
AudioIds = Callable[[Mapping[str, Any]], list[int]]


class Conversation(NamedTuple):
    """A conversation as ids.

    Attributes:
        ids: the ids of template, texts and sounds in order.
        answer: as many bools; true for what an assistant said and for the special token that ends it.
    """

    ids: list[int]
    answer: list[bool]


def is_batch(conversation: Sequence[Any]) -> bool:
    """Whether this is a list of conversations rather than a conversation. ValueError if it is empty."""
    if not len(conversation):
        raise ValueError("expected at least one message, got an empty conversation")
    return isinstance(conversation[0], list | tuple)


def encode_conversation(
    tokenizer: Any,
    messages: Sequence[Mapping[str, Any]],
    options: Mapping[str, Any],
    audio_ids: AudioIds | None = None,
) -> Conversation:
    """Turn one conversation into ids.

    Args:
        tokenizer: an :class:`~audiotok.tokens.tokenizer.AudioTextTokenizer`.
        messages: dicts with ``role`` and ``content``: a string, or a list of parts ``{"type": "text", "text":
            ...}`` and ``{"type": "audio", ...}``.
        options: for ``tokenizer.apply_chat_template``. Without any chat template the project's own sequence
            is made (see :func:`plain_conversation`), and of these only ``add_generation_prompt`` and ``answer``
            are looked at.
        audio_ids: ids of an audio part, its start and end markers among them; None refuses such parts.

    Returns:
        Ids, and which of them are the assistant's.

    Raises:
        ValueError: a role or a key spells a special token, a part is of another type, or the template hides
            what it was given.
    """
    messages = [{**message, "content": _parts(message, audio_ids)} for message in messages]
    if not (options.get("chat_template") or tokenizer.chat_template):
        prompt, answer = options.get("add_generation_prompt", False), options.get("answer")
        return plain_conversation(tokenizer, messages, audio_ids, prompt, answer)
    marks = _Marks([token.content for token in tokenizer.added_tokens_decoder.values() if token.special])
    marked = [marks.message(message) for message in messages]
    strings = {key: marks.hide(value) for key, value in options.items() if key != "chat_template"}
    strings |= {key: marks.mark(options[key], False) for key in ("tools", "documents") if options.get(key)}
    text = tokenizer.apply_chat_template(marked, tokenize=False, **{**options, **strings})
    return _splice(tokenizer, marks, text, audio_ids)


def plain_conversation(
    tokenizer: Any,
    messages: Sequence[Mapping[str, Any]],
    audio_ids: AudioIds | None,
    add_generation_prompt: bool = False,
    answer: str | None = None,
) -> Conversation:
    """The sequence of a vocabulary that has no chat template.

    ``<bos>``, then every part between its own markers (``<text> ... </text>``, ``<audio> ... </audio>``), and
    ``<eos>`` after what the assistant said.

    Args:
        tokenizer: an :class:`~audiotok.tokens.tokenizer.AudioTextTokenizer`.
        messages: with ``content`` as a list of parts.
        audio_ids: as for :func:`encode_conversation`.
        add_generation_prompt: end with the marker that opens the answer.
        answer: ``audio`` or ``text``, what the prompt asks for; None asks for the other kind than that of the
            last part.

    Returns:
        Ids, and which of them are the assistant's.

    Raises:
        ValueError: ``answer`` is neither.
    """
    if answer not in (None, "audio", "text"):
        raise ValueError(f"expected answer 'audio' or 'text', got {answer!r}")
    ids, flags, kind = [bos_id(tokenizer)], [False], "audio"
    for message in messages:
        said = message["role"] == "assistant"
        new: list[int] = []
        for part in message["content"]:
            kind = part["type"]
            if kind == "audio":
                assert audio_ids is not None
                new += audio_ids(part)
            else:
                start, end = tokenizer.control_id("text_start"), tokenizer.control_id("text_end")
                new += [start, *tokenizer.encode_text(part["text"]), end]
        if said:
            new.append(eos_id(tokenizer))
        ids += new
        flags += [said] * len(new)
    if add_generation_prompt:
        answer = answer or ("text" if kind == "audio" else "audio")
        ids.append(tokenizer.control_id(f"{answer}_start"))
        flags.append(False)
    return Conversation(ids, flags)


def bos_id(tokenizer: Any) -> int:
    """The id a sequence begins with: the base vocabulary's own, or the control id."""
    return tokenizer.control_id("bos") if tokenizer.bos_token_id is None else tokenizer.bos_token_id


def eos_id(tokenizer: Any) -> int:
    """The id a sequence ends with: the base vocabulary's own, or the control id."""
    return tokenizer.control_id("eos") if tokenizer.eos_token_id is None else tokenizer.eos_token_id


class _Marks:
    """The stand-ins of one conversation, and what they stand for."""

    def __init__(self, specials: Sequence[str]) -> None:
        number = secrets.token_hex(8)
        names = sorted(filter(None, specials), key=len, reverse=True)
        self._specials = re.compile("|".join(map(re.escape, names)) or r"(?!)")
        self._open, self._close = f"\ue000{number}-", f"\ue002{number}\ue003"
        self._stand = f"\ue004{number}-"
        self.number = number
        self.outer: list[tuple[str, str]] = []  # the whitespace around each marked string
        self.things: list[Any] = []  # what stand-ins stand for: special tokens' strings, and audio parts
        space = f"({_OUTER_SPACE})?"
        self.stand_ins = re.compile(rf"{self._stand}(\d+)\ue005")
        self.pieces = re.compile(
            rf"{space}{self._open}([ua])(\d+)\ue001((?:(?!{self._open}).)*?){self._close}{space}|{self.stand_ins.pattern}",
            flags=re.DOTALL,
        )
        self._torn = re.compile(rf"{self._open}[ua]\d+\ue001|{self._close}|{_OUTER_SPACE}")

    def message(self, message: Mapping[str, Any]) -> dict[str, Any]:
        """A message for the template: content as one string, every string of it marked."""
        said = message["role"] == "assistant"
        content = ""
        for part in message["content"]:
            is_text = part["type"] == "text"
            content += self._text(part["text"], said) if is_text else self._stand_in((part, said))
        rest = {key: value for key, value in message.items() if key != "content"}
        return self.mark(rest, said) | {"content": content}

    def mark(self, value: Any, said: bool) -> Any:
        """``value`` with every string in it marked, in lists and dicts too."""
        if isinstance(value, str):
            return self._text(value, said)
        if isinstance(value, list | tuple):
            return [self.mark(item, said) for item in value]
        if not isinstance(value, Mapping):
            return value
        for plain in (*value, *(value[key] for key in _PLAIN_KEYS if key in value)):
            if isinstance(plain, str) and self._specials.search(plain):
                raise ValueError(f"expected roles, types and keys without special tokens, got {plain!r}")
        return {key: item if key in _PLAIN_KEYS else self.mark(item, said) for key, item in value.items()}

    def hide(self, value: Any) -> Any:
        """A string with stand-ins for the special tokens in it; anything else as it is."""
        if not isinstance(value, str):
            return value
        return self._specials.sub(lambda found: self._stand_in(found.group()), value)

    def show(self, text: str) -> str:
        """The string again that :meth:`hide` changed."""
        return self.stand_ins.sub(self._hidden, text)

    def literal(self, text: str) -> str:
        """A template's own text, without what is left of marks that it has torn apart."""
        text = self._torn.sub("", text)
        if self.number in text or re.search("[\ue000-\ue005]", text):
            raise ValueError(_CUTS)
        return text

    def _hidden(self, found: re.Match[str]) -> str:
        thing = self.things[int(found.group(1))]
        if not isinstance(thing, str):
            raise ValueError(_CUTS)
        return thing

    def _text(self, text: str, said: bool) -> str:
        core = text.strip()
        lead = text[: len(text) - len(text.lstrip())] if core else text
        tail = text[len(text.rstrip()) :] if core else ""
        self.outer.append((lead, tail))
        opened = f"{self._open}{'a' if said else 'u'}{len(self.outer) - 1}\ue001"
        marked = opened + self.hide(core) + self._close
        return (_OUTER_SPACE if lead else "") + marked + (_OUTER_SPACE if tail else "")

    def _stand_in(self, thing: Any) -> str:
        self.things.append(thing)
        return f"{self._stand}{len(self.things) - 1}\ue005"


def _parts(message: Mapping[str, Any], audio_ids: AudioIds | None) -> list[Mapping[str, Any]]:
    """The content of a message as a list of checked parts."""
    content = message.get("content")
    if content is None:
        return []
    given = [content] if isinstance(content, str | Mapping) else content
    parts = [{"type": "text", "text": part} if isinstance(part, str) else part for part in given]
    for part in parts:
        kind = part.get("type")
        if kind not in ("text", "audio") or (kind == "text" and not isinstance(part.get("text"), str)):
            raise ValueError(f"expected parts of type 'text' (with a str) or 'audio', got {dict(part)!r:.80}")
        if kind == "audio" and audio_ids is None:
            raise ValueError("a tokenizer has no sound; give audio parts to AudioTextProcessor instead")
    return parts


def _splice(tokenizer: Any, marks: _Marks, text: str, audio_ids: AudioIds | None) -> Conversation:
    """Encode the pieces of a rendered template and put them together."""
    ids: list[int] = []
    answer: list[bool] = []

    def add(new: list[int], said: bool) -> None:
        ids.extend(new)
        answer.extend([said] * len(new))

    def add_literal(literal: str) -> None:
        literal = marks.literal(literal)
        if not literal:
            return
        new = tokenizer(literal, add_special_tokens=False, split_special_tokens=False, verbose=False)[
            "input_ids"
        ]
        special = next((at for at, i in enumerate(new) if i in specials), None)
        ends = special + 1 if answer and answer[-1] and special is not None else 0
        add(new[:ends], True)
        add(new[ends:], False)

    specials = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    position = 0
    for piece in marks.pieces.finditer(text):
        add_literal(text[position : piece.start()])
        position = piece.end()
        before, who, index, inside, after, thing = piece.groups()
        if thing is not None:
            kept = marks.things[int(thing)]
            if isinstance(kept, str):
                add(tokenizer.encode_text(kept), False)
            else:
                assert audio_ids is not None
                add(audio_ids(kept[0]), kept[1])
            continue
        lead, tail = marks.outer[int(index)]
        whole = (lead if before else "") + marks.show(inside) + (tail if after else "")
        add(tokenizer.encode_text(whole), who == "a")
    add_literal(text[position:])
    return Conversation(ids, answer)
