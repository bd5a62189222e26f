"""The values of the columns, checked one by one and put into rows; a refusal names the row."""

from __future__ import annotations

import random
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from deploycomp.data.labels import label_mapper, number, unlabeled
from deploycomp.data.sources import Table
from deploycomp.errors import InputRefused

__all__ = ["MASK", "MASKS", "SEED", "Reader"]

MASK = "[MASK]"
"""How rows write a masked token; a model's own mask token takes its place when the row is run."""

SEED = 20_261_120
"""Of the subset that `limit` takes and of the words that are masked; fixed, so that two runs see the same."""

SINGLE, MULTI, REGRESSION = "single_label_classification", "multi_label_classification", "regression"
"""transformers' names for the kinds of text classification."""

MASKS = re.compile(r"\[MASK\]|<mask>|<MASK>")
"""How data writes a masked token."""
_WORD = re.compile(r"[^\W\d_]{2,}")
_WORD_PREFIXES = ("", "Ġ", "▁")
"""What a vocabulary writes before a token that starts a word: WordPiece, byte-level BPE, SentencePiece."""


class Reader:
    """Checks the values of the columns and puts them into rows."""

    def __init__(
        self,
        table: Table,
        chosen: Mapping[str, str],
        values: dict[str, list[Any]],
        labels: Sequence[str] | None,
        problem_type: str | None,
        vocabulary: Collection[str] | None,
    ):
        self.table, self.chosen, self.values, self.vocabulary = table, chosen, values, vocabulary
        self.labels = None if labels is None else tuple(labels)
        self.problem_type = problem_type
        self.size = len(next(iter(values.values())))

    def read_inputs(self, task: str) -> list[dict[str, Any]]:
        """Return the rows of a task without what is to be predicted."""
        if task == "token-classification":
            return self._zip({"tokens": self._tokens()})
        if task == "question-answering":
            return self._zip(self._questions())
        return self._zip(self._texts())

    def read(self, task: str) -> list[dict[str, Any]]:
        """Return the rows of a task."""
        if task == "text-classification":
            return self._zip({**self._texts(), "label": self._labels()})
        if task == "token-classification":
            return self._tagged()
        if task == "question-answering":
            return self._zip({**self._questions(), "answers": self._answers()})
        if task == "fill-mask":
            return self._masked()
        return self._zip({**self._texts(), "score": self._numbers("score")})

    def _zip(self, columns: dict[str, list[Any]]) -> list[dict[str, Any]]:
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]

    def _where(self, index: int) -> str:
        return f"{self.table.name}, row {index + 1}"

    def _refuse(self, index: int, what: str, *, why: str | None = None, hint: str | None = None) -> InputRefused:
        return InputRefused(what, where=self._where(index), why=why, hint=hint)

    def _unlabeled(self, index: int, value: Any) -> InputRefused:
        return self._refuse(
            index,
            "the row has no label",
            why=f"it holds {value!r}; public test splits are often unlabeled",
            hint="choose a labeled split: --split validation",
        )

    # texts

    def _texts(self) -> dict[str, list[str]]:
        texts = {name: self._strings(name) for name in ("text", "text_pair") if name in self.values}
        self._refuse_blank([text for column in texts.values() for text in column], *texts)
        return texts

    def _questions(self) -> dict[str, list[str]]:
        texts = {name: self._strings(name) for name in ("question", "context")}
        for name, column in texts.items():
            self._refuse_blank(column, name)
        return texts

    def _tokens(self) -> list[list[str]]:
        words = [self._words(index) for index in range(self.size)]
        self._refuse_blank([word for row in words for word in row], "tokens")
        return words

    def _refuse_blank(self, texts: Sequence[str], *names: str) -> None:
        """Nothing can be learned from, or judged on, rows that all say nothing."""
        if any(text.strip() for text in texts):
            return
        columns = " and ".join(f"'{self.chosen[name]}'" for name in names)
        raise InputRefused(
            f"not one of {self.size:,} rows has a text",
            where=self.table.name,
            why=f"column {columns} holds nothing but white space",
            hint=f"name the column of the texts: --column {names[0]}=…",
        )

    def _strings(self, name: str) -> list[str]:
        return [self._string(index, name, value) for index, value in enumerate(self.values[name])]

    def _string(self, index: int, name: str, value: Any) -> str:
        if isinstance(value, str):
            return value
        if isinstance(value, int | float) and not isinstance(value, bool) and value == value:
            return str(value)  # a CSV whose texts are all numbers
        column = self.chosen[name]
        why = f"column '{column}' holds {'nothing' if value is None else type(value).__name__}, not a string"
        raise self._refuse(index, f"the row has no {name}", why=why)

    # numbers

    def _numbers(self, name: str) -> list[float]:
        values = self.values[name]
        if all(unlabeled(value) for value in values):
            raise self._unlabeled(0, values[0])
        found = [number(value) for value in values]
        for index, value in enumerate(found):
            if value is None and unlabeled(values[index]):
                raise self._unlabeled(index, values[index])
            if value is None:
                raise self._refuse(index, "the label is not a number", why=f"it is {values[index]!r}")
        return [value for value in found if value is not None]

    # labels

    def _labels(self) -> list[Any]:
        values = self.values["label"]
        if self.problem_type is None:
            self.problem_type = self._guess(values)
        if self.problem_type == REGRESSION:
            self.labels = None
            return self._numbers("label")
        if self.problem_type == MULTI:
            return self._label_sets(values)
        for index, value in enumerate(values):
            if unlabeled(value) and str(value) not in (self.labels or ()):
                raise self._unlabeled(index, value)
            if isinstance(value, list | dict):
                raise self._refuse(index, "the row has more than one label", why="the model gives one label a row")
        return self._map(values, "label")

    def _guess(self, values: Sequence[Any]) -> str:
        if any(isinstance(value, list) for value in values):
            return MULTI
        fractions = any(isinstance(value, float) and not value.is_integer() for value in values)
        one_output = self.labels is not None and len(self.labels) == 1
        return REGRESSION if one_output or (self.labels is None and fractions) else SINGLE

    def _map(self, values: Sequence[Any], name: str) -> list[str]:
        """The values of a column, one or several a row, in the model's words."""
        self.labels, mapper = label_mapper(
            values,
            self.labels,
            self.table.class_names(self.chosen[name]),
            where=lambda flat: self._where(self._owner(flat, name)),
        )
        return [mapper(value) for value in values]

    def _owner(self, flat: int, name: str) -> int:
        """The row that the n-th value of a column of lists stands in."""
        for index, value in enumerate(self.values[name]):
            flat -= len(value) if isinstance(value, list) else 1
            if flat < 0:
                return index
        return self.size - 1

    def _label_sets(self, values: Sequence[Any]) -> list[list[str]]:
        for index, value in enumerate(values):
            if value is None:
                raise self._unlabeled(index, value)
            if not isinstance(value, list):
                raise self._refuse(index, "the row has no list of labels", why="the model gives several labels a row")
        hot = self.labels is not None and len(self.labels) > 1
        if hot and all(len(row) == len(self.labels or ()) and set(row) <= {0, 1} for row in values):
            return [sorted(label for label, on in zip(self.labels or (), row, strict=True) if on) for row in values]
        for index, row in enumerate(values):
            for value in row:
                if unlabeled(value):
                    raise self._unlabeled(index, value)
        flat = iter(self._map([value for row in values for value in row], "label"))
        return [sorted({next(flat) for _ in row}) for row in values]

    def _words(self, index: int) -> list[str]:
        words = self.values["tokens"][index]
        if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
            why = "split words are lists of strings; write them as JSON lines or Parquet"
            raise self._refuse(index, "the row has no list of tokens", why=why)
        return words

    def _tagged(self) -> list[dict[str, Any]]:
        tags = self.values["tags"]
        tokens = self._tokens()
        for index, (words, marks) in enumerate(zip(tokens, tags, strict=True)):
            if not isinstance(marks, list):
                raise self._unlabeled(index, marks)
            if len(words) != len(marks):
                raise self._refuse(index, f"the row has {len(words)} tokens and {len(marks)} tags")
            for mark in marks:
                if unlabeled(mark):
                    raise self._unlabeled(index, mark)
        flat = iter(self._map([mark for marks in tags for mark in marks], "tags"))
        return [{"tokens": words, "tags": [next(flat) for _ in words]} for words in tokens]

    # answers and masks

    def _answers(self) -> list[list[str]]:
        answers: list[list[str]] = []
        for index, value in enumerate(self.values["answers"]):
            texts: Any = value.get("text") if isinstance(value, dict) else value
            texts = [texts] if isinstance(texts, str) else texts
            if texts is None:
                raise self._unlabeled(index, value)
            if isinstance(texts, list):
                texts = [text.get("text") if isinstance(text, dict) else text for text in texts]
            if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
                raise self._refuse(index, "the answers are not texts", why='expected {"text": […]} or a list of texts')
            answers.append([text for text in texts if text.strip()])
        if not any(answers):
            raise self._refuse(
                0,
                "not one row has an answer",
                why="rows without one are unanswerable questions, and all of them together an unlabeled split",
                hint="choose a labeled split: --split validation",
            )
        return answers

    def _masked(self) -> list[dict[str, Any]]:
        """Rows with a mask of their own, or plain text with one word masked; text without a word is left out."""
        rows: list[dict[str, Any]] = []
        for index, text in enumerate(self._strings("text")):
            masks = MASKS.findall(text)
            if len(masks) > 1:
                raise self._refuse(index, f"the row has {len(masks)} masks", why="exactly one is judged")
            if masks:
                label = self.values["label"][index] if "label" in self.values else None
                if label is None or not str(label).strip():
                    raise self._unlabeled(index, label)
                rows.append({"text": MASKS.sub(MASK, text), "label": str(label).strip()})
            elif (word := self._word(index, text)) is not None:
                rows.append({"text": text[: word.start()] + MASK + text[word.end() :], "label": word.group()})
        if not rows:
            raise self._refuse(0, "no row has a word that could be masked")
        return rows

    def _word(self, index: int, text: str) -> re.Match[str] | None:
        """One word of a text, chosen by the seed and the number of the row."""
        words = [word for word in _WORD.finditer(text) if self._is_token(word.group())]
        return random.Random(f"{SEED}:{index}").choice(words) if words else None

    def _is_token(self, word: str) -> bool:
        if self.vocabulary is None:
            return True
        return any(prefix + form in self.vocabulary for prefix in _WORD_PREFIXES for form in (word, word.lower()))
