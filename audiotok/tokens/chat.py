"""Conversations -> ids. Special tokens of a chat template are recognised; those in messages stay plain text.

A template is rendered with marks (private-use characters and a random number) around every string of the conversation.
Each marked string is then encoded on its own, so it cannot yield a special, control or audio id.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from jinja2 import TemplateError
from transformers.utils.chat_template_utils import render_jinja_template

# Whitespace around marked strings. Templates trim it like other whitespace, but never write it.
_LEAD, _TAIL = "\u205f\u2028\u205f", "\u2028\u205f\u2028"
_CUTS = "the chat template cuts or escapes the strings of the conversation; use one that keeps them whole"
_GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")
_PLAIN_KEYS = ("role", "type")  # checked instead of marked, because templates compare these values
AudioIds = Callable[[Mapping[str, Any]], list[int]]


class Conversation(NamedTuple):
    """A conversation as ids.

    Attributes:
        ids: ids of template, texts and audio in order.
        answer: one bool per id, true for the assistant's part: the content of ``{% generation %}`` blocks, or without
            such blocks the assistant's content and the special token after it.
    """

    ids: list[int]
    answer: list[bool]


def is_batch(conversation: Sequence[Any]) -> bool:
    """Whether this is a list of conversations. Raises ValueError if it is empty."""
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
        options: ``chat_template``, ``tools``, ``documents``, ``add_generation_prompt``, ``continue_final_message``
            and the template's own variables. Without a chat template see :func:`plain_conversation`.
        audio_ids: returns the ids of an audio part with its markers; None refuses such parts.

    Raises:
        ValueError: a role or key holds a special token, a part has another type, or the template leaves out audio
            or all of the text.
    """
    checked = [_checked(message, audio_ids is not None) for message in messages]
    if not has_template(tokenizer, options):
        prompt, kind = options.get("add_generation_prompt", False), options.get("answer")
        return plain_conversation(tokenizer, checked, audio_ids, prompt, kind)
    marks = _Marks(tokenizer)
    text, spans = _render(tokenizer, marks, checked, options)
    specials = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    ids: list[int] = []
    answer: list[bool] = []

    def in_answer(start: int, stop: int) -> bool:
        return any(start < end and stop > begin for begin, end in spans or ())

    for start, stop, value, said in marks.split(text):
        if value is None:
            coded = tokenizer(
                text[start:stop],
                add_special_tokens=False,
                split_special_tokens=False,
                return_offsets_mapping=True,
                verbose=False,
            )
            new = coded["input_ids"]
            if spans is not None:
                flags = [in_answer(start + low, start + high) for low, high in coded["offset_mapping"]]
            else:
                special = next((at for at, i in enumerate(new) if i in specials), None)
                ends = special + 1 if answer and answer[-1] and special is not None else 0
                flags = [True] * ends + [False] * (len(new) - ends)
        else:
            new = tokenizer.encode_text(value) if isinstance(value, str) else audio_ids(value)  # type: ignore[misc]
            flags = [said if spans is None else in_answer(start, stop)] * len(new)
        ids += new
        answer += flags
    return Conversation(ids, answer)


def render_conversation(
    tokenizer: Any, messages: Sequence[Mapping[str, Any]], options: Mapping[str, Any]
) -> str:
    """The rendered template of a conversation for people to read, with ``<audio></audio>`` for audio parts.

    Raises:
        ValueError: there is no chat template, or as in :func:`encode_conversation`.
    """
    marks = _Marks(tokenizer)
    text, _ = _render(tokenizer, marks, [_checked(message, True) for message in messages], options)
    pieces = []
    for start, stop, value, _said in marks.split(text):
        value = text[start:stop] if value is None else value
        pieces.append(value if isinstance(value, str) else "<audio></audio>")
    return "".join(pieces)


def has_template(tokenizer: Any, options: Mapping[str, Any]) -> bool:
    """Whether a chat template was passed or belongs to the tokenizer."""
    return bool(options.get("chat_template") or tokenizer.chat_template)


def plain_conversation(
    tokenizer: Any,
    messages: Sequence[Mapping[str, Any]],
    audio_ids: AudioIds | None,
    add_generation_prompt: bool = False,
    answer: str | None = None,
) -> Conversation:
    """The sequence of a vocabulary without a chat template.

    It is ``<bos>``, every part between its own markers (``<text> ... </text>``, ``<audio> ... </audio>``), and
    ``<eos>`` after each assistant message.

    Args:
        tokenizer: an :class:`~audiotok.tokens.tokenizer.AudioTextTokenizer`.
        messages: with ``content`` as a list of parts.
        audio_ids: as for :func:`encode_conversation`.
        add_generation_prompt: end with the marker that opens the answer.
        answer: ``audio`` or ``text``, the kind of answer; None means the opposite of the last part's kind.

    Raises:
        ValueError: ``answer`` is unknown.
    """
    if answer not in (None, "audio", "text"):
        raise ValueError(f"expected answer 'audio' or 'text', got {answer!r}")
    ids, flags, kind = [bos_id(tokenizer)], [False], "audio"
    for message in messages:
        said = message["role"] == "assistant"
        new: list[int] = []
        for part in message.get("content", []):
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
    """First id of a sequence: the BOS id of the base vocabulary, or the control id."""
    return tokenizer.control_id("bos") if tokenizer.bos_token_id is None else tokenizer.bos_token_id


def eos_id(tokenizer: Any) -> int:
    """Last id of a sequence: the EOS id of the base vocabulary, or the control id."""
    return tokenizer.control_id("eos") if tokenizer.eos_token_id is None else tokenizer.eos_token_id


def _checked(message: Mapping[str, Any], takes_audio: bool) -> dict[str, Any]:
    """Copy a message without keys whose value is None, with its content as a list of checked parts."""
    if not isinstance(message.get("role"), str):
        raise ValueError(f"expected messages with a role, got {dict(message)!r:.80}")
    kept = {key: value for key, value in message.items() if value is not None}
    if "content" not in kept:
        return kept
    content = kept["content"]
    given = [content] if isinstance(content, str | Mapping) else content
    parts = [{"type": "text", "text": part} if isinstance(part, str) else part for part in given]
    for part in parts:
        kind = part.get("type")
        if kind not in ("text", "audio") or (kind == "text" and not isinstance(part.get("text"), str)):
            raise ValueError(f"expected parts of type 'text' (with a str) or 'audio', got {dict(part)!r:.80}")
        if kind == "audio" and not takes_audio:
            raise ValueError("a tokenizer takes no audio parts; use AudioTextProcessor.apply_chat_template")
    return kept | {"content": parts, "_is_list": not isinstance(content, str)}


def _render(
    tokenizer: Any, marks: _Marks, messages: Sequence[Mapping[str, Any]], options: Mapping[str, Any]
) -> tuple[str, list[tuple[int, int]] | None]:
    """The marked text of a conversation, and the spans of ``{% generation %}``; None if the template has none.

    Some templates expect content as a string, some as a list of parts, some take both. Content is tried as given, then
    as strings, then as parts. The first rendering that leaves nothing out is used, or else the most complete one.
    """
    template = tokenizer.get_chat_template(options.get("chat_template"), options.get("tools"))
    has_spans = _GENERATION.search(template) is not None
    variables = {key: marks.hide(value) for key, value in options.items() if key != "chat_template"}
    variables |= {key: marks.mark(options[key], False) for key in ("tools", "documents") if options.get(key)}
    marked = [marks.message(message) for message in messages]
    render: Any = render_jinja_template  # the annotation of the function omits the spans
    best: tuple[set[int], str, list[tuple[int, int]] | None] | None = None
    failure: Exception | None = None
    for as_list in (None, False, True):
        chat = []
        for message in marked:
            chat.append({key: value for key, value in message.items() if key != "_is_list"})
            if "content" in message and not (message["_is_list"] if as_list is None else as_list):
                chat[-1]["content"] = "".join(part["text"] for part in message["content"])
        try:
            rendered, spans = render(
                [chat],
                chat_template=template,
                return_assistant_tokens_mask=has_spans,
                **{**tokenizer.special_tokens_map, **variables},
            )
        except (TypeError, ValueError, TemplateError) as error:
            failure = failure or error
            continue
        lost = marks.lost(rendered[0])
        if best is None or len(lost) < len(best[0]):
            best = lost, rendered[0], spans[0] if has_spans else None
        if not lost:
            break
    if best is None:
        assert failure is not None
        raise failure
    lost, text, found = best
    if any(marks.is_audio[index] for index in lost):
        raise ValueError("the chat template leaves out an audio part; use one that writes all of the content")
    if lost and len(lost) == len(marks.is_audio) and "content" in template:
        raise ValueError("the chat template leaves out all of the content; use one that writes it")
    return text, found


class _Marks:
    """Marks the strings of one conversation and finds them in the rendered template.

    A marked string is ``\\ue000 number - [ua] index \\ue001 string \\ue002 number - index \\ue003``, where ``a`` stands
    for the assistant. A placeholder ``\\ue004 number - index \\ue005`` replaces an audio part, or a special token in a
    string.
    """

    def __init__(self, tokenizer: Any) -> None:
        specials = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
        names = sorted(filter(None, specials), key=len, reverse=True)
        self._specials = re.compile("|".join(map(re.escape, names)) or r"(?!)")
        self._number = number = secrets.token_hex(8)
        self.is_audio: dict[int, bool] = {}  # content that a rendering must include, by index
        self._outer: list[tuple[str, str]] = []  # whitespace around each marked string
        # Values of the placeholders, and whether they belong to the assistant.
        self._things: list[tuple[Any, bool]] = []
        opened, closed = rf"\ue000{number}-([ua])(\d+)\ue001", rf"\ue002{number}-(\d+)\ue003"
        stand_in = rf"\ue004{number}-(\d+)\ue005"
        self._stand_ins = re.compile(stand_in)
        inside = rf"((?:(?!\ue000{number}).)*?)"
        self._pieces = re.compile(
            rf"({_LEAD})?{opened}{inside}\ue002{number}-\d+\ue003({_TAIL})?|{stand_in}", re.DOTALL
        )
        self._torn = re.compile(f"{opened}|{closed}|{_LEAD}|{_TAIL}")

    def message(self, message: Mapping[str, Any]) -> dict[str, Any]:
        """A message for the template with marked strings and with its content as a list of text parts."""
        said = message["role"] == "assistant"
        rest = {key: value for key, value in message.items() if key not in ("content", "_is_list")}
        out = self.mark(rest, said)
        if "content" in message:
            out["_is_list"] = message["_is_list"]
            out["content"] = []
            for part in message["content"]:
                if part["type"] == "audio":
                    text = self._text(self._stand_in(part, said), said)
                    self.is_audio[len(self._outer) - 1] = True
                else:
                    text = self._text(part["text"], said)
                    if part["text"].strip():
                        self.is_audio[len(self._outer) - 1] = False
                out["content"].append({"type": "text", "text": text})
        return out

    def mark(self, value: Any, said: bool) -> Any:
        """``value`` with every string marked, also in lists and dicts."""
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
        """``value`` with placeholders for the special tokens in its strings, also in lists and dicts."""
        if isinstance(value, str):
            return self._specials.sub(lambda found: self._stand_in(found.group(), False), value)
        if isinstance(value, list | tuple):
            return [self.hide(item) for item in value]
        if isinstance(value, Mapping):
            return {key: self.hide(item) for key, item in value.items()}
        return value

    def lost(self, text: str) -> set[int]:
        """Indices of content strings of which a rendered template includes neither end."""
        kept = {int(found[1] or found[2]) for found in self._torn.findall(text) if found[1] or found[2]}
        return set(self.is_audio) - kept

    def split(self, text: str) -> Iterator[tuple[int, int, Any, bool]]:
        """The pieces of a rendered template: start, stop, value, and whether it belongs to the assistant.

        The value is None for the template's own text, a string of the conversation, or an audio part.

        Raises:
            ValueError: the template has damaged a mark.
        """
        position = 0
        for piece in self._pieces.finditer(text):
            yield from self._template(text, position, piece.start())
            position = piece.end()
            before, who, index, inside, after, thing = piece.groups()
            only = self._stand_ins.fullmatch(inside or "")
            if thing is None and only and not isinstance(self._things[int(only[1])][0], str):
                thing = only[1]
            if thing is not None:
                yield piece.start(), position, *self._things[int(thing)]
                continue
            lead, tail = self._outer[int(index)]
            shown = self._stand_ins.sub(self._special, inside)
            whole = (lead if before else "") + shown + (tail if after else "")
            yield piece.start(), position, whole, who == "a"
        yield from self._template(text, position, len(text))

    def _template(self, text: str, start: int, stop: int) -> Iterator[tuple[int, int, None, bool]]:
        """The template's own text between separated marks."""
        torn = [start, *(at for found in self._torn.finditer(text, start, stop) for at in found.span()), stop]
        for low, high in zip(torn[::2], torn[1::2], strict=True):
            if self._number in text[low:high] or re.search("[\ue000-\ue005]", text[low:high]):
                raise ValueError(_CUTS)
            if low < high:
                yield low, high, None, False

    def _special(self, found: re.Match[str]) -> str:
        thing = self._things[int(found[1])][0]
        if not isinstance(thing, str):
            raise ValueError(_CUTS)
        return thing

    def _text(self, text: str, said: bool) -> str:
        core = text.strip()
        lead, tail = text.split(core, 1) if core else (text, "")
        index = len(self._outer)
        self._outer.append((lead, tail))
        opened = f"\ue000{self._number}-{'a' if said else 'u'}{index}\ue001"
        marked = f"{opened}{self.hide(core)}\ue002{self._number}-{index}\ue003"
        return (_LEAD if lead else "") + marked + (_TAIL if tail else "")

    def _stand_in(self, thing: Any, said: bool) -> str:
        self._things.append((thing, said))
        return f"\ue004{self._number}-{len(self._things) - 1}\ue005"
