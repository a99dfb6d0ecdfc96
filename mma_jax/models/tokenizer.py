"""Tokenizers in their public files, and a chat that only ever grows by token ids.

A folder has `tokenizer.json` (Llama 3: read by transformers) or `tokenizer.model` (Vicuna, our own: read by
sentencepiece), and a chat template in `chat_template.jinja` or `tokenizer_config.json`. Between what an assistant
says and its end token there may be blanks, as in Llama 2's own template, but nothing else.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

import sentencepiece
from jinja2.exceptions import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from mma_jax.models.tensors import line
from mma_jax.types import History, InputError, Message

_SENTINELS = ("\u27e8system\u27e9", "\u27e8user\u27e9", "\u27e8assistant\u27e9", "\u27e8tool\u27e9")
"""Stand for contents while a template is taken apart; nothing a template would write itself."""


class Tokenizer(Protocol):
    """Text to ids and back. `encode` takes text as it is: what looks like a control token there is none."""

    vocab_size: int  # every id is below; a model needs as many rows
    stop_ids: tuple[int, ...]  # a completion ends with one of these
    template: str  # of a chat, in jinja
    names: dict[str, str]  # bos_token and eos_token, as a template wants them

    def encode(self, text: str) -> list[int]: ...

    def encode_control(self, text: str) -> list[int]:
        """Like `encode`, but control tokens in `text` become their ids: for what a chat template writes."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """Control tokens are left out, and ids of none: a model may have more rows than its tokenizer has tokens."""
        ...


class HuggingFaceTokenizer:
    """A `tokenizer.json`. Code that a folder brings along is never run."""

    def __init__(self, folder: Path):
        from transformers import AutoTokenizer  # here, because importing it takes seconds

        self._tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        known = self._tokenizer.get_vocab()
        self.vocab_size = max(known.values(), default=-1) + 1  # more than len(known) where ids have gaps
        self.template = self._tokenizer.chat_template or _template(folder)
        ends = [self._tokenizer.eos_token, *_STOPS]
        self.stop_ids = tuple(dict.fromkeys(known[end] for end in ends if end in known))
        self.names = {name: getattr(self._tokenizer, name) or "" for name in ("bos_token", "eos_token")}

    def encode(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)

    def encode_control(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=False)

    def decode(self, ids: Sequence[int]) -> str:
        return self._tokenizer.decode(ids, skip_special_tokens=True)


class SentencePieceTokenizer:
    """A `tokenizer.model`."""

    def __init__(self, folder: Path):
        self._pieces = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
        self.vocab_size = self._pieces.vocab_size()
        self.template = _template(folder)
        ids = range(self.vocab_size)
        self._control = {self._pieces.id_to_piece(i): i for i in ids if self._pieces.is_control(i)}
        self.names = {"bos_token": self._name(self._pieces.bos_id()), "eos_token": self._name(self._pieces.eos_id())}
        ends = [self.names["eos_token"], *_STOPS]
        self.stop_ids = tuple(dict.fromkeys(self._control[end] for end in ends if end in self._control))

    def spans(self, text: str) -> list[int]:
        """Where each token of `encode(text)` ends in the text, exclusive."""
        return [piece.end for piece in self._pieces.encode(text, return_type="proto").pieces]

    def pieces(self) -> list[str]:
        """Every token as sentencepiece stores it, a blank written "\u2581": [V]."""
        return [self._pieces.id_to_piece(i) for i in range(self.vocab_size)]

    def _name(self, token: int) -> str:
        return self._pieces.id_to_piece(token) if token >= 0 else ""

    def encode(self, text: str) -> list[int]:
        return self._pieces.encode(text)

    def encode_control(self, text: str) -> list[int]:
        found = [(text.find(name), name) for name in self._control if name in text]
        if not found:
            return self.encode(text) if text else []
        at, name = min(found, key=lambda hit: (hit[0], -len(hit[1])))
        before, after = text[:at], text[at + len(name) :]
        return [*(self.encode(before) if before else []), self._control[name], *self.encode_control(after)]

    def decode(self, ids: Sequence[int]) -> str:
        return self._pieces.decode([i for i in ids if i < self.vocab_size and not self._pieces.is_control(i)])


_STOPS = ("<|eot_id|>", "<|eom_id|>", "<|end|>")


def load_tokenizer(folder: str | Path) -> HuggingFaceTokenizer | SentencePieceTokenizer:
    """The tokenizer of a checkpoint folder.

    Raises:
        InputError: there is none, it cannot be read, or it has no token that ends a completion.
    """
    folder = Path(folder)
    kinds = {"tokenizer.json": HuggingFaceTokenizer, "tokenizer.model": SentencePieceTokenizer}
    kind = next((kind for name, kind in kinds.items() if (folder / name).is_file()), None)
    if kind is None:
        raise InputError(f"{folder}: no tokenizer.json or tokenizer.model here; give a checkpoint folder that has one")
    try:
        tokenizer = kind(folder)
    except InputError:
        raise
    except Exception as error:  # the readers raise all kinds
        raise InputError(f"{folder}: the tokenizer cannot be read ({line(error)}); download its files again") from error
    if not tokenizer.stop_ids:
        raise InputError(f"{folder}: the tokenizer has no end token ({', '.join(_STOPS)} or its eos)")
    return tokenizer


def _template(folder: Path) -> str:
    """The chat template of a folder, in either of the two places where it may be."""
    alone, config = folder / "chat_template.jinja", folder / "tokenizer_config.json"
    if alone.is_file():
        return alone.read_text(encoding="utf-8")
    if config.is_file() and (template := json.loads(config.read_text(encoding="utf-8")).get("chat_template")):
        return template
    raise InputError(f"{folder}: no chat template (chat_template.jinja, or chat_template in tokenizer_config.json)")


class Chat:
    """A tokenizer's chat template, taken apart once, so that histories grow by ids alone (DESIGN §6.3).

    A template is rendered with sentinels for contents; what stands around these is encoded with control tokens, the
    contents without, so that no title can end a message. An observation is a message of role "tool" or, where the
    template refuses that, "user".

    `end`: the ids behind what an assistant says, the last of which is the end token; others are blanks.

    Raises:
        InputError: the template cannot render system, user, assistant and an observation, in this order.
    """

    def __init__(self, tokenizer: Tokenizer):
        self.tokenizer = tokenizer
        self.stop_ids = tokenizer.stop_ids
        self._encode = functools.lru_cache(1 << 12)(lambda text: tuple(tokenizer.encode(text)))
        rendered = self._render()
        pieces, rest = [], rendered
        for sentinel in _SENTINELS:
            before, found, rest = rest.partition(sentinel)
            if not found:
                raise InputError("the chat template leaves out a message; give one that writes all of them")
            pieces.append(tokenizer.encode_control(before))
        self._before_system, self._before_user, _, between = pieces
        self._generation = tokenizer.encode_control(self._opening_end())
        self._next = tokenizer.encode_control(rest)
        length = next((n for n, token in enumerate(between, 1) if token in tokenizer.stop_ids), 0)
        # a completion brings its own end, or lacks it
        self.end, self._between = between[:length], between[length:]
        if not length or tokenizer.decode(self.end).strip():
            raise InputError(
                "the chat template does not write the tokenizer's end token right behind an assistant's message; "
                "give one that does"
            )

    def _render(self, roles: Sequence[str] = ("system", "user", "assistant", "tool")) -> str:
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
        environment.globals |= {"raise_exception": _refuse, "strftime_now": lambda _: "26 Jul 2024"}
        environment.filters["tojson"] = lambda value, **_: json.dumps(value, ensure_ascii=False)
        messages = [{"role": r, "content": s} for r, s in zip(roles, _SENTINELS, strict=False)]
        try:
            text = environment.from_string(self.tokenizer.template).render(
                messages=messages, add_generation_prompt=True, **self.tokenizer.names
            )
        except Exception as error:  # a template is a program
            if roles[-1] != "tool":
                raise InputError(f"the chat template cannot be used: {line(error)}") from error
            return self._render((*roles[:-1], "user"))
        if len(roles) == 4 and roles[-1] == "tool" and f'"{_SENTINELS[3]}"' in text:
            text = text.replace(f'"{_SENTINELS[3]}"', _SENTINELS[3])  # Llama 3.1 quotes what tools return
        return text

    def _opening_end(self) -> str:
        """What stands between the user's message and the first completion."""
        return self._render(("system", "user")).partition(_SENTINELS[1])[2]

    def open(self, history: History) -> list[int]:
        """Ids of an opening (system and user message) up to where the first completion begins."""
        system, user = history
        return [
            *self._before_system,
            *self._encode(system.content),
            *self._before_user,
            *self._encode(user.content),
            *self._generation,
        ]

    def reply(self, message: Message, closed: bool) -> list[int]:
        """Ids between a completion and the next one.

        Args:
            message: what the environment answered.
            closed: the completion ended with its end token; if it was cut off, its end comes first here.
        """
        return [*([] if closed else self.end), *self._between, *self._encode(message.content), *self._next]

    def count(self, text: str) -> int:
        """Tokens of a text, for the environment's budgets."""
        return len(self._encode(text))


def _refuse(message: str) -> None:
    raise TemplateError(message)


def train_tokenizer(
    folder: Path, corpus: Iterable[str], symbols: Sequence[str], control: Sequence[str], vocab_size: int, template: str
) -> None:
    """Train a case-folding unigram tokenizer and write its files.

    Args:
        folder: where tokenizer.model and tokenizer_config.json go.
        corpus: lines of text.
        symbols: texts that always become one token. As sentencepiece stores them: a blank is written "\u2581"; what
            contains one must be in lower case.
        control: the control tokens; the first begins a text, the last ends a message.
        vocab_size: an upper bound.
        template: jinja.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "tokenizer.model", "wb") as file:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(corpus),
            model_writer=file,
            vocab_size=vocab_size,
            hard_vocab_limit=False,
            model_type="unigram",
            user_defined_symbols=list(symbols),
            control_symbols=list(control[1:-1]),
            bos_piece=control[0],
            eos_piece=control[-1],
            unk_id=0,
            bos_id=1,
            eos_id=2,
            pad_id=-1,
            byte_fallback=True,
            normalization_rule_name="nmt_nfkc_cf",
            add_dummy_prefix=False,
            remove_extra_whitespaces=False,
            num_threads=1,
            minloglevel=2,
        )
    settings: dict[str, Any] = {"tokenizer_class": "LlamaTokenizer", "bos_token": control[0], "eos_token": control[-1]}
    text = json.dumps({**settings, "chat_template": template}, indent=1)
    (folder / "tokenizer_config.json").write_text(text, encoding="utf-8")
