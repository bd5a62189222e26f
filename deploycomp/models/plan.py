"""The surgery plan: what was cut out of a model since its config was written, as a short ordered list.

    surgery.json   {"format": 1, "base": {"num_hidden_layers": 6},
                    "cuts": [{"cut": "layers", "kept": [0, 1, 2, 4, 5]},
                             {"cut": "heads", "layer": 3, "kept": [0, 2, 7]}, …]}

`config.json` always describes the model as it is, as far as a config can; *base* holds the keys that the cuts changed,
as they were before the first one. Loading builds the model of config and base, replays the cuts, and loads the weights
strictly (`surgery.py`). Nothing here needs torch.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, cast

from deploycomp.errors import InputRefused
from deploycomp.models import strictjson

__all__ = ["SURGERY", "Bias", "Cut", "Factored", "Heads", "Layers", "Neurons", "Plan", "Vocabulary", "read_plan"]

SURGERY = "surgery.json"
FORMAT = 1
MAX_CUTS = 10_000
"""Every layer of the deepest model, cut several times over."""

_BASE_KEYS = ("num_hidden_layers", "n_layers", "layer_types", "vocab_size")


@dataclass(frozen=True)
class Heads:
    """Attention heads that stay in a layer, by their place before the cut; with none the attention goes."""

    layer: int
    kept: tuple[int, ...]


@dataclass(frozen=True)
class Neurons:
    """Feed-forward neurons that stay in a layer; with none the feed-forward part goes."""

    layer: int
    kept: tuple[int, ...]


@dataclass(frozen=True)
class Layers:
    """Layers that stay."""

    kept: tuple[int, ...]


@dataclass(frozen=True)
class Vocabulary:
    """Pieces of the vocabulary that stay."""

    kept: tuple[int, ...]


@dataclass(frozen=True)
class Bias:
    """A linear layer that had no bias got one, because compensation needs it."""

    module: str


@dataclass(frozen=True)
class Factored:
    """Matrices stored as what they are rebuilt from (`factors.py`), one decoder for all of them."""

    modules: tuple[str, ...]
    rule: str
    form: str
    sizes: dict[str, int]

    @property
    def two_products(self) -> bool:
        """Whether it is two factors and nothing else, which can be multiplied one after the other."""
        return self.rule == "low_rank" and not self.sizes["norms"] and not self.sizes["shift"]


Cut = Heads | Neurons | Layers | Vocabulary | Bias | Factored
_KINDS: dict[str, type[Any]] = {
    "heads": Heads,
    "neurons": Neurons,
    "layers": Layers,
    "vocabulary": Vocabulary,
    "bias": Bias,
    "factored": Factored,
}
_NAMES = {kind: name for name, kind in _KINDS.items()}


@dataclass(frozen=True)
class Plan:
    """Cuts in the order they were made.

    Args:
        base: Keys of the config that the cuts changed, as they were before.
        cuts: What was cut.
    """

    base: dict[str, Any] = field(default_factory=dict[str, Any])
    cuts: tuple[Cut, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.cuts)

    def then(self, cut: Cut) -> Plan:
        """Return the plan with one more cut; a second cut at the same place becomes one with the first."""
        if isinstance(cut, (Heads, Neurons)):
            for place, earlier in self._since_layers():
                if type(earlier) is type(cut) and earlier.layer == cut.layer:
                    merged = replace(earlier, kept=tuple(earlier.kept[index] for index in cut.kept))
                    return replace(self, cuts=(*self.cuts[:place], merged, *self.cuts[place + 1 :]))
        return replace(self, cuts=(*self.cuts, cut))

    def based_on(self, values: dict[str, Any]) -> Plan:
        """Return the plan with config values as they were before a cut; the first ones stand."""
        return replace(self, base={**values, **self.base})

    def _since_layers(self) -> Iterator[tuple[int, Any]]:
        """Cuts that count layers as a new cut does."""
        last = max((place for place, cut in enumerate(self.cuts) if isinstance(cut, Layers)), default=-1)
        return ((place, cut) for place, cut in enumerate(self.cuts) if place > last)

    def to_json(self) -> str:
        """Write the plan, a line a cut; the same plan gives the same bytes."""
        lines = ",\n".join(f"  {json.dumps({'cut': _NAMES[type(cut)], **asdict(cut)})}" for cut in self.cuts)
        return f'{{"format": {FORMAT}, "base": {json.dumps(self.base, sort_keys=True)}, "cuts": [\n{lines}\n]}}\n'


def read_plan(path: Path, *, inside: Path) -> Plan:
    """Read a surgery plan strictly.

    Args:
        path: The file.
        inside: The model's folder, which no link may leave.

    Raises:
        InputRefused: It is no plan, or one of a newer deploycomp.
    """
    value = strictjson.as_object(strictjson.read(path, inside=inside), where=path)
    where = str(path)
    if type(value.get("format")) is not int or value["format"] != FORMAT:
        raise InputRefused(
            f"surgery.json has format {value.get('format')!r}", where=where, hint="update deploycomp: it knows format 1"
        )
    base, cuts = value.get("base"), value.get("cuts")
    if set(value) != {"format", "base", "cuts"} or not isinstance(base, dict) or not isinstance(cuts, list):
        raise InputRefused("surgery.json is no surgery plan", where=where, why="it holds format, base and cuts")
    if len(cast("list[Any]", cuts)) > MAX_CUTS:
        raise InputRefused(f"surgery.json has more than {MAX_CUTS:,} cuts", where=where)
    foreign = sorted(set(cast("dict[str, Any]", base)) - set(_BASE_KEYS))
    if foreign:
        raise InputRefused(
            f"surgery.json's base holds {foreign[0]!r}", where=where, why=f"only {', '.join(_BASE_KEYS)}"
        )
    for name, before in cast("dict[str, Any]", base).items():
        if not _sound(name, before):
            raise InputRefused(f"surgery.json's base holds no such {name}: {before!r}", where=where)
    made = (_cut(each, f"{where}: cut {number}") for number, each in enumerate(cast("list[Any]", cuts)))
    return Plan(cast("dict[str, Any]", base), tuple(made))


def _sound(name: str, value: Any) -> bool:
    """Whether a config may hold this value under this key of the base."""
    if name == "layer_types":
        return isinstance(value, list) and all(isinstance(each, str) for each in cast("list[Any]", value))
    return type(value) is int and value > 0


def _natural(value: Any) -> bool:
    return type(value) is int and value >= 0


def _paths(value: Any) -> bool:
    """Some paths, none of them twice."""
    each = cast("list[Any]", value) if isinstance(value, list) else []
    return bool(each) and all(isinstance(path, str) for path in each) and len(set(each)) == len(each)


def _sizes(value: Any) -> bool:
    sizes = cast("dict[str, Any]", value) if isinstance(value, dict) else {"": None}
    return all(map(_natural, sizes.values()))


_FIELDS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "layer": ("a number", _natural),
    "module": ("a path", lambda value: isinstance(value, str)),
    "modules": ("a list of paths", _paths),
    "rule": ("a name", lambda value: isinstance(value, str)),
    "form": ("smaller or faster", lambda value: value in ("smaller", "faster")),
    "sizes": ("a table of numbers", _sizes),
}
"""Field of a cut → what it must be; *kept*, which is long, is looked at by itself."""


def _cut(value: Any, where: str) -> Cut:
    kind = _KINDS.get(str(value.get("cut"))) if isinstance(value, dict) else None
    if kind is None:
        raise InputRefused("surgery.json holds an unknown cut", where=where, why=f"known: {', '.join(_KINDS)}")
    given = {name: each for name, each in cast("dict[str, Any]", value).items() if name != "cut"}
    fields = set(kind.__dataclass_fields__)
    if set(given) != fields:
        raise InputRefused("a cut has other keys", where=where, why=f"it needs {', '.join(sorted(fields))}")
    for name, (what, sound) in _FIELDS.items():
        if name in given and not sound(given[name]):
            raise InputRefused(f"{name} is not {what}", where=where)
    if "modules" in given:
        given["modules"] = tuple(given["modules"])
    if "kept" in given:
        kept = given["kept"]
        if not isinstance(kept, list) or not all(type(each) is int for each in cast("list[Any]", kept)):
            raise InputRefused("kept is not a list of numbers", where=where)
        given["kept"] = tuple(cast("list[int]", kept))
        if sorted(set(given["kept"])) != list(given["kept"]) or any(each < 0 for each in given["kept"]):
            raise InputRefused("kept does not ascend", where=where)
    return cast("Cut", kind(**given))
