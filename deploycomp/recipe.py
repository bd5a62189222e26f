"""The whole recipe grammar: what to do to a model, in which order, for which target, held to which goals.

A recipe is YAML. Every flag of `deploycomp export` is a short way to write one, and the recipe that ran is stored in
the artifact, so that file alone reproduces the run:

    version: 1
    model: ./my-model
    task: auto
    target: portable
    steps:
      - step: export
      - step: int8
    evaluate: {data: test.jsonl, max_drop: 0.005}
    benchmark: {batch_size: [1, 8], sequence_length: [16, 128]}
"""

from __future__ import annotations

import difflib
import json
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, cast, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from deploycomp.errors import UsageError
from deploycomp.readfile import os_error
from deploycomp.yamlcore import Loader, dump

__all__ = [
    "FACTOR_GOALS",
    "MATRICES",
    "PRUNE_GOALS",
    "TARGETS",
    "TASKS",
    "Benchmark",
    "DropLayers",
    "Evaluate",
    "Export",
    "Factorize",
    "Fixed",
    "Int8",
    "Layout",
    "Prune",
    "PruneFfn",
    "PruneHeads",
    "PruneVocabulary",
    "Recipe",
    "Step",
    "Target",
    "Task",
    "find_recipes",
]

Task = Literal[
    "text-classification",
    "token-classification",
    "question-answering",
    "feature-extraction",
    "sentence-similarity",
    "fill-mask",
]
TASKS: tuple[str, ...] = get_args(Task)

Target = Literal[
    "auto",
    "portable",
    "x86-avx2",
    "x86-avx512",
    "x86-vnni",
    "arm64",
    "arm64-dotprod",
    "cuda",
]
"""Where the artifact will run. `auto` is this machine, `portable` any CPU (the default: an artifact that is sent on
must be right everywhere), the rest name what the CPU guarantees."""
TARGETS: tuple[str, ...] = get_args(Target)

Layout = Literal["default", "transformers.js", "sentence-transformers"]

MAX_RECIPE_BYTES = 1_000_000
"""A recipe is written by hand; anything larger is not one (and YAML anchors can explode)."""

DEFAULT_EXTERNAL_DATA_BYTES = 1_500_000_000
"""Protobuf ends at 2 GiB; optimizers need head room below it (onnx#4394, onnxruntime#12882)."""


class _Strict(BaseModel):
    """A frozen config that knows all its keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Fixed(_Strict):
    """Input dimensions fixed at export; `None` stays dynamic."""

    batch: Annotated[int, Field(ge=1)] | None = None
    sequence: Annotated[int, Field(ge=1)] | None = None


class Export(_Strict):
    """torch → onnx."""

    stage: ClassVar[str] = "export"
    step: Literal["export"] = "export"
    ops: Literal["fused", "standard"] = "fused"
    """`fused` emits ONNX Runtime's attention and activations; `standard` only ai.onnx operators."""
    dtype: Literal["fp32", "fp16"] = "fp32"
    opset: Annotated[int, Field(ge=18, le=26)] | None = None
    """None takes 24, whose attention is the fastest on a CPU, or 18 where other runtimes must read the graph."""
    fixed: Fixed = Fixed()
    external_data_bytes: Annotated[int, Field(ge=0)] = DEFAULT_EXTERNAL_DATA_BYTES
    """Weights go to `model.onnx.data` when they are larger than this."""


class Int8(_Strict):
    """onnx → onnx: INT8, U8 activations and S8 weights per channel, embeddings INT8 by row."""

    stage: ClassVar[str] = "onnx"
    step: Literal["int8"] = "int8"
    weight_bits: Literal["auto", 7, 8] = "auto"
    """`auto` takes 8 where the target guarantees an INT8 dot product, else 7 (U8S8 saturates without one)."""
    embeddings: bool = True
    activations: Literal["auto", "static", "dynamic"] = "auto"
    """Ranges `static` from calibration rows or `dynamic` from each batch; `auto` takes static where there are rows."""
    attention: Literal["auto", "int8", "float"] = "auto"
    """The products of attention; `auto` tries INT8 while tuning and keeps it where it is faster and answers as well."""
    ranges: Literal["minmax", "mse", "percentile", "entropy"] = "minmax"
    """How a static range is taken from the activations that were seen."""
    smooth: bool = True
    """Move outlier channels of activations into the weights where that pays (SmoothQuant)."""
    keep_float: tuple[str, ...] = ()
    """Patterns over names of layers that stay in float: `*.output.dense`."""


_Share = Annotated[float, Field(gt=0, lt=1)]
PRUNE_GOALS = ("speedup", "flops", "parameters", "bytes")
"""What pruning can aim at."""


class _Pruning(_Strict):
    """Units that go, down to one goal."""

    stage: ClassVar[str] = "torch"
    speedup: Annotated[float, Field(gt=1, le=100)] | None = None
    """How many times faster, measured here in ONNX Runtime at the recipe's precision."""
    flops: _Share | None = None
    """The share of the encoder's operations that stays."""
    parameters: _Share | None = None
    """The share of all parameters that stays."""
    bytes: _Share | None = None
    """The share of the weights' bytes that stays."""
    batch_size: Annotated[int, Field(ge=1)] = 1
    sequence_length: Annotated[int, Field(ge=1)] = 128
    threads: Annotated[int, Field(ge=1)] = 1
    """Where a speed-up is measured."""
    rounds: Annotated[int, Field(ge=1, le=64)] = 4
    """Times that everything is scored anew."""
    recover: Annotated[float, Field(ge=0, le=600)] = 0.0
    """Minutes of distillation afterwards, on unlabelled rows."""
    labels: bool = False
    """Score units by the loss on the calibration rows' labels, of text classification, instead of without any."""

    @model_validator(mode="after")
    def _one_goal(self) -> _Pruning:
        if len(self.goal) != 1:
            raise ValueError(f"pruning needs one goal of {', '.join(PRUNE_GOALS)}, this one has {len(self.goal)}")
        return self

    @property
    def goal(self) -> dict[str, float]:
        """The goal by its name."""
        return self.model_dump(include=set(PRUNE_GOALS), exclude_none=True)


class Prune(_Pruning):
    """torch → torch: attention heads and feed-forward neurons."""

    step: Literal["prune"] = "prune"


class PruneHeads(_Pruning):
    """torch → torch: attention heads alone."""

    step: Literal["prune_heads"] = "prune_heads"


class PruneFfn(_Pruning):
    """torch → torch: feed-forward neurons alone."""

    step: Literal["prune_ffn"] = "prune_ffn"


class DropLayers(_Strict):
    """torch → torch: whole layers, those whose absence changes answers least."""

    stage: ClassVar[str] = "torch"
    step: Literal["drop_layers"] = "drop_layers"
    count: Annotated[int, Field(ge=1)] = 1


class PruneVocabulary(_Strict):
    """torch → torch: pieces that a corpus does not need."""

    stage: ClassVar[str] = "torch"
    step: Literal["prune_vocabulary"] = "prune_vocabulary"
    corpus: str | None = None
    """Data as for evaluation; None takes the calibration data, all of it."""


Method = Literal[
    "auto", "svd", "fisher_svd", "pca", "whitened", "kfac", "linear_autoencoder", "autoencoder", "kronecker", "tucker"
]
"""How a matrix is factorized."""
Matrices = Literal["embeddings", "query", "key", "value", "output", "ffn_in", "ffn_out"]
MATRICES: tuple[Matrices, ...] = get_args(Matrices)


_Ratio = Annotated[float, Field(gt=1, le=1000)]


class Factorize(_Strict):
    """torch → torch: matrices stored as factors, or as what a decoder rebuilds them from."""

    stage: ClassVar[str] = "torch"
    step: Literal["factorize"] = "factorize"
    size: _Share | None = None
    """The share of all parameters that stays; ranks are allocated over the whole model."""
    ratio: _Ratio | Annotated[dict[Matrices, _Ratio], Field(min_length=1)] | None = None
    """How many times fewer numbers each matrix, or group of them, stores: the paper's compression ratio; one for
    all, or one by kind of matrix, and then no others are factorized."""
    speedup: Annotated[float, Field(gt=1, le=100)] | None = None
    """How many times faster, measured here in ONNX Runtime; the embeddings stay as they are."""
    method: Method = "auto"
    """`auto` weighs directions by the loss (K-FAC) and fits them, bottom-up, to what really reaches them."""
    grouping: Literal["separated", "joint", "concatenated"] = "joint"
    """Which matrices share a decoder: none, Q, K and V of one layer, or those of one kind of all layers."""
    row_weights: Literal["none", "fisher"] = "none"
    """Rows that the loss looks at count for more, in `svd` and the autoencoders (FWSVD)."""
    matrices: Annotated[tuple[Matrices, ...], Field(min_length=1)] = MATRICES
    form: Literal["auto", "smaller", "faster"] = "auto"
    """Rebuild matrices once when a session is created, or multiply by two factors; `auto` measures which is faster."""
    batch_size: Annotated[int, Field(ge=1)] = 1
    sequence_length: Annotated[int, Field(ge=1)] = 128
    threads: Annotated[int, Field(ge=1)] = 1
    """Where speed is measured."""

    @model_validator(mode="after")
    def _one_goal(self) -> Factorize:
        if len(self.goal) != 1:
            raise ValueError(f"factorize needs one goal of {', '.join(FACTOR_GOALS)}, this one has {len(self.goal)}")
        if self.speedup is not None and (self.form == "smaller" or not self.low_rank):
            raise ValueError("only two factors can be faster: leave method and form at auto for a speedup")
        if self.speedup is not None and self.grouping != "joint":
            raise ValueError("a speedup needs grouping joint: Q, K and V share their first product")
        if self.grouping == "concatenated" and self.method in ("auto", "kfac"):
            raise ValueError(f"{self.method} weighs each layer by itself: another method for grouping concatenated")
        if self.form == "faster" and not self.low_rank:
            raise ValueError(f"{self.method} has no two factors to multiply by: form smaller")
        if len(set(self.matrices)) != len(self.matrices):
            raise ValueError("matrices names one twice")
        if isinstance(self.ratio, dict) and self.matrices not in (MATRICES, tuple(self.ratio)):
            raise ValueError("ratio names the matrices already")
        if self.row_weights != "none" and self.method not in ("svd", "linear_autoencoder", "autoencoder"):
            raise ValueError(f"{self.method} weighs rows by itself, or not at all")
        return self

    @property
    def goal(self) -> dict[str, float]:
        """The goal by its name."""
        return self.model_dump(include=set(FACTOR_GOALS), exclude_none=True)

    @property
    def kinds(self) -> tuple[Matrices, ...]:
        """What is factorized."""
        return tuple(self.ratio) if isinstance(self.ratio, dict) else self.matrices

    def ratio_of(self, kind: str) -> float:
        """The ratio of matrices of a kind; of Q, K and V together that of the first."""
        assert self.ratio is not None
        return self.ratio[kind.partition("+")[0]] if isinstance(self.ratio, dict) else self.ratio  # type: ignore[index]

    @property
    def low_rank(self) -> bool:
        """Whether the result is a product of two matrices."""
        return self.method not in ("autoencoder", "kronecker", "tucker")


FACTOR_GOALS = ("size", "ratio", "speedup")
"""What factorization can aim at."""

Step = Annotated[
    DropLayers | PruneVocabulary | PruneHeads | PruneFfn | Prune | Factorize | Export | Int8,
    Field(discriminator="step"),
]
"""One step; add a config class here and its function in `steps.py`."""


class Evaluate(_Strict):
    """Data that the result is judged on."""

    data: str
    """A JSONL, CSV or Parquet file, or a hub data set (`name`, `name:config`)."""
    split: str | None = None
    columns: dict[str, str] = {}
    """Where our columns are in the data, for example `{text: sentence, label: intent}`."""
    limit: Annotated[int, Field(ge=1)] | None = None
    max_drop: Annotated[float, Field(ge=0, le=1)] | None = None
    """The largest accepted fall of the task metric against the source, as a fraction: 0.005 is half a point."""
    batch_size: Annotated[int, Field(ge=1)] = 16
    null_score_diff_threshold: float | None = None
    """Question answering: by how much the null answer must beat the best span to be the answer; None is 0 where the
    data has unanswerable rows, and no empty answer elsewhere."""


class Calibrate(_Strict):
    """Rows that ranges and choices are taken from; never those that the result is judged on."""

    data: str | None = None
    """As for evaluation; None takes the train split beside the evaluation data, where there is one."""
    split: str | None = None
    columns: dict[str, str] = {}
    rows: Annotated[int, Field(ge=1)] | None = None
    """None takes 256 for ranges and 1,024 for pruning."""
    held_out: Annotated[int, Field(ge=0)] = 512
    """Further rows, that choices are made on."""
    allow_random: bool = False
    """Calibrate on random tokens where there is no data."""


class Benchmark(_Strict):
    """The shapes and threads that latency is measured at."""

    batch_size: tuple[Annotated[int, Field(ge=1)], ...] = (1, 8)
    sequence_length: tuple[Annotated[int, Field(ge=1)], ...] = (16, 128)
    threads: tuple[Annotated[int, Field(ge=1)], ...] = ()
    """Empty means one value: what affinity and cgroup quota allow here."""
    blocks: Annotated[int, Field(ge=2)] = 3
    block_seconds: Annotated[float, Field(gt=0)] = 0.5


class Gate(_Strict):
    """What a candidate may cost against a baseline, as fractions, where that is measured, and how surely."""

    max_slowdown: Annotated[float, Field(ge=0, le=10)] = 0.05
    """Of the median latency, in every shape and thread count."""
    max_memory_growth: Annotated[float, Field(ge=0, le=10)] = 0.05
    max_size_growth: Annotated[float, Field(ge=0, le=10)] = 0.01
    max_drop: Annotated[float, Field(ge=0, le=1)] | None = None
    """Of the main metric; needs data, and is half a point there by default."""
    batch_size: tuple[Annotated[int, Field(ge=1)], ...] = (1,)
    sequence_length: tuple[Annotated[int, Field(ge=1)], ...] = (128,)
    threads: tuple[Annotated[int, Field(ge=1)], ...] = (1,)
    """Empty means one value: what affinity and cgroup quota allow here. One thread is the steadiest by far."""
    budget: Annotated[float, Field(ge=1)] = 60.0
    """Seconds for measuring."""
    false_alarm: Annotated[float, Field(gt=0, lt=0.5)] = 0.001
    """Probability of FAIL without a broken goal, over everything that is measured."""


class Recipe(_Strict):
    """An ordered list of steps with target, data and goals."""

    version: Literal[1] = 1
    model: str | None = None
    revision: str | None = None
    task: Task | Literal["auto"] = "auto"
    target: Target = "portable"
    steps: tuple[Step, ...] = (Export(),)
    calibrate: Calibrate | None = None
    evaluate: Evaluate | None = None
    tune: bool | None = None
    """Measure the variants of a step on this machine and keep the fastest; None does so for target `auto`."""
    benchmark: Benchmark | None = Benchmark()
    gate: Gate | None = None
    """Goals for `deploycomp gate --recipe`; an export does not look at them."""
    layout: Layout = "default"
    keep_fp32: bool = False

    @model_validator(mode="after")
    def _order(self) -> Recipe:
        """Torch steps come first, then one export, then onnx steps, none of them twice."""
        names = [step.step for step in self.steps]
        if names.count("export") != 1:
            raise ValueError(f"a recipe needs exactly one 'export' step, this one has {names.count('export')}")
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"step '{name}' stands twice")
        order = {"torch": 0, "factorize": 1, "export": 2, "onnx": 3}
        for before, after in zip(self.steps, self.steps[1:], strict=False):
            if order.get(before.step, order[before.stage]) > order.get(after.step, order[after.stage]):
                raise ValueError(f"step '{before.step}' works on {before.stage} and must come after '{after.step}'")
        export = next(step for step in self.steps if isinstance(step, Export))
        if "int8" in names and export.dtype != "fp32":
            raise ValueError("step 'int8' quantizes FP32 weights; use either dtype fp16 or int8")
        return self

    @property
    def export(self) -> Export:
        """The one export step."""
        return next(step for step in self.steps if isinstance(step, Export))

    @property
    def opset(self) -> int:
        """The opset that was asked for, or what this target and layout can read."""
        if self.export.opset is not None:
            return self.export.opset
        elsewhere = self.target == "cuda" or self.layout == "transformers.js" or self.export.ops == "standard"
        return 18 if elsewhere else 24

    def to_yaml(self) -> str:
        """Write the full recipe, every default spelled out, as YAML that `Recipe.parse` reads back."""
        return dump(self.model_dump(mode="json"))

    @staticmethod
    def parse(text: str, *, where: str = "recipe") -> Recipe:
        """Read a recipe from YAML 1.2 (core schema).

        Args:
            text: The YAML.
            where: What to call it in errors, usually its path.

        Raises:
            UsageError: Not YAML, a key that does not exist, a value out of range, a wrong order of steps.
        """
        if len(text.encode()) > MAX_RECIPE_BYTES:
            raise _too_large(where)
        try:
            data: Any = Loader(text).get_single_data()
        except RecursionError:
            raise UsageError("the recipe is nested too deeply", where=where) from None
        except yaml.YAMLError as error:
            mark = getattr(error, "problem_mark", None)
            at = f"{where}:{mark.line + 1}:{mark.column + 1}" if mark else where
            raise UsageError(
                "the recipe is not valid YAML", where=at, why=str(getattr(error, "problem", error))
            ) from None
        if not isinstance(data, dict):
            raise UsageError("a recipe is a mapping of keys to values", where=where, hint="deploycomp recipes")
        return Recipe.check(cast("dict[str, Any]", data), where=where, exact=True)

    @staticmethod
    def read(path: Path) -> Recipe:
        """Read a recipe file.

        Raises:
            UsageError: There is no such file, it is no UTF-8 text, or see `parse`.
            EnvironmentFailed: It may not be read.
        """
        try:
            with path.open("rb") as file:
                content = file.read(MAX_RECIPE_BYTES + 1)
            if len(content) > MAX_RECIPE_BYTES:
                raise _too_large(str(path))
            text = content.decode()
        except OSError as error:
            if not isinstance(error, FileNotFoundError | IsADirectoryError):
                raise os_error(error, where=str(path)) from None
            raise UsageError(
                "the recipe cannot be read", where=str(path), why=error.strerror, hint="deploycomp recipes"
            ) from None
        except UnicodeDecodeError as error:
            raise UsageError(
                "the recipe cannot be read", where=str(path), why=str(error), hint="deploycomp recipes"
            ) from None
        return Recipe.parse(text, where=str(path))

    @staticmethod
    def check(data: dict[str, Any], *, where: str = "recipe", exact: bool = False) -> Recipe:
        """Build a recipe from plain values.

        Args:
            data: The values.
            where: What to call them in errors.
            exact: Refuse a text where a number or a boolean belongs, even one that could be read as such: in YAML
                `yes`, `1_000` and `"8"` are texts.

        Raises:
            UsageError: With the path of the first wrong key and a suggestion where a key looks like a typo.
        """
        try:
            json.dumps(data, ensure_ascii=False, default=str, skipkeys=True).encode("utf-8")
        except UnicodeEncodeError as error:
            raise UsageError(
                "a name in the recipe is not UTF-8",
                where=where,
                why=f"{error.object[max(0, error.start - 40) : error.end]!r}: the manifest holds the recipe as typed",
                hint="rename it",
            ) from None
        try:
            return Recipe.model_validate(_tuples(data), strict=True) if exact else Recipe.model_validate(data)
        except ValidationError as error:
            first = error.errors()[0]
            path = ".".join(str(part) for part in first["loc"] if not str(part).startswith("literal["))
            hint = None
            if first["type"] == "extra_forbidden":
                hint = _suggestion(str(first["loc"][-1]))
            elif isinstance(first["input"], str | int | float):
                hint = _SCALARS.get(first["type"])
            raise UsageError(
                first["msg"].removeprefix("Value error, "),
                where=f"{where}: {path}" if path else where,
                hint=hint,
            ) from None


def _too_large(where: str) -> UsageError:
    return UsageError(f"a recipe is at most {MAX_RECIPE_BYTES:,} bytes", where=where)


_SCALARS = {
    "string_type": "put it in quotes: without them it is a number or a boolean",
    "bool_type": "true or false",
    "int_type": "a whole number without quotes, such as 16",
    "float_type": "a number without quotes, such as 0.005",
}
"""What to type where a scalar is of another kind than its key."""


def _tuples(value: Any) -> Any:
    """The same values with tuples for lists, which is what the grammar holds."""
    if isinstance(value, dict):
        return {key: _tuples(each) for key, each in cast("dict[Any, Any]", value).items()}
    return tuple(_tuples(each) for each in cast("list[Any]", value)) if isinstance(value, list) else value


def _suggestion(key: str) -> str | None:
    models: tuple[type[BaseModel], ...] = (
        Recipe, Export, Int8, Prune, DropLayers, PruneVocabulary, Factorize, Calibrate, Evaluate, Benchmark, Gate,
        Fixed,
    )  # fmt: skip
    for model in models:
        if key in model.model_fields:
            return f"'{key}' belongs to {model.__name__.lower()}"
    known = sorted({name for model in models for name in model.model_fields})
    close = difflib.get_close_matches(key, known, n=1)
    return f"did you mean '{close[0]}'?" if close else f"known keys: {', '.join(known)}"


def find_recipes() -> dict[str, Path]:
    """Return the recipes that come with deploycomp: name → file, from the wheel or from the repository."""
    here = Path(__file__).parent
    for folder in (here / "_recipes", here.parent / "recipes"):
        if folder.is_dir():
            return {path.stem: path for path in sorted(folder.glob("*.yaml"))}
    return {}
