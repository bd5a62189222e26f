"""Load an audited checkpoint strictly: what is missing, left over, misshapen or not finite is refused by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from deploycomp.errors import DeploycompError, EnvironmentFailed, InputRefused
from deploycomp.models.anatomy import Anatomy, describe
from deploycomp.models.foreign import python, who, wrapped
from deploycomp.models.inputs import graph_inputs
from deploycomp.models.model import TorchModel
from deploycomp.models.quiet import quiet
from deploycomp.models.sentence import Sentence, cross_activation, cross_encoder
from deploycomp.models.source import Source
from deploycomp.models.stage import Stage, staged
from deploycomp.models.surgery import replay
from deploycomp.models.tasks import OUTPUTS, check_task, model_class
from deploycomp.models.tokenizer import check_tokenizer, load_tokenizer
from deploycomp.models.vet import vetting
from deploycomp.models.weights import SINGLE
from deploycomp.recipe import Task

__all__ = ["load"]

NAMED = 5
"""How many tensors an error names; the rest is counted."""

TOLERATED_GROWTH = 2.0
"""A config may describe this many times the elements of the file (a head that is missing is found later, by name); a
larger model is refused before its memory is taken."""

CUT_GROWTH = 20.0
"""The same for a model that cuts were made in, which is built whole first."""

DEFAULT_MAX_LENGTH = 512
"""For an architecture that states no limit."""

_NO_LIMIT = 10**9
"""transformers writes 10^30 for a tokenizer without a limit."""

_HEADS = (
    "cls.", "classifier.", "pre_classifier.", "qa_outputs.", "lm_head.", "lm_predictions.", "mask_predictions.",
    "vocab_transform.", "vocab_layer_norm.", "vocab_projector.", "predictions.", "sop_classifier.", "head.", "decoder.",
    "discriminator_predictions.", "generator_predictions.", "generator_lm_head.", "pooler.",
)  # fmt: skip
"""Modules above the encoder, by the names that BERT-like architectures give them."""

_SAME_MODEL = "take config.json and weights from the same model, or download it again"
_NO_HEAD = "use --task feature-extraction for the encoder alone, or fine-tune the head first"

_SECOND_HEADS = ("cls.seq_relationship.",)
"""Heads that pretraining keeps inside the module of another head."""

_HEADLESS = ("feature-extraction", "sentence-similarity")

_ACTIVATIONS = {
    "torch.nn.modules.activation.Sigmoid": "sigmoid",
    "torch.nn.Sigmoid": "sigmoid",
    "torch.nn.modules.linear.Identity": "identity",
    "torch.nn.Identity": "identity",
}
"""What a CrossEncoder's config may name, and what it is called in the manifest."""

_BUFFERS = ("position_ids", "token_type_ids")
"""Buffers that old versions of transformers stored, and that are computed today."""


def load(
    source: Source, task: Task | str = "auto", *, progress: Callable[[str, float], None] | None = None
) -> TorchModel:
    """Load a checkpoint in FP32 on the CPU, in eval mode.

    Args:
        source: What `resolve` returned.
        task: A task, or `auto`.
        progress: Called with a message and a fraction.

    Raises:
        InputRefused: The checkpoint does not fit its config, its task or its tokenizer, or is not finite.
        EnvironmentFailed: There is not enough memory, or a package is missing.
    """
    if progress is not None:
        progress(f"loading {source.name}", 0.0)
    with quiet():
        task = check_task(source, task)
        with vetting(source) as vetted, staged(source) as stage:
            config = _config(stage)
            module, notes = _module(stage, task, config)
            _check_finite(module, source)
            vetted()
            tokenizer, more = load_tokenizer(stage, task)
    stage.rehome(tokenizer)
    module.config._name_or_path = source.name
    source = replace(source, config=stage.config, notes=(*source.notes, *stage.notes, *_head_notes(source)))
    inputs, others = graph_inputs(module, config, tokenizer, source)
    anatomy = _described(module, source)
    check_tokenizer(tokenizer, module, source, task)
    labels = _labels(config) if task in ("text-classification", "token-classification") else None
    problem_type = _problem_type(config, labels) if task == "text-classification" else None
    sentence = source.sentence if task == "sentence-similarity" else None
    return TorchModel(
        module=module,
        tokenizer=tokenizer,
        task=task,
        anatomy=anatomy,
        config=module.config,
        source=source,
        inputs=inputs,
        outputs=OUTPUTS[task],
        max_length=_max_length(module, config, tokenizer, anatomy, sentence),
        labels=labels,
        problem_type=problem_type,
        activation=_activation(source, problem_type, labels),
        sentence=sentence,
        notes=(*source.notes, *notes, *more, *others, *anatomy.notes),
        plan=source.plan,
    )


def _head_notes(source: Source) -> tuple[str, ...]:
    return tuple(f"{name} ignored: the encoder alone is exported, without SetFit's classifier" for name in source.head)


def _described(module: nn.Module, source: Source) -> Anatomy:
    try:
        return describe(module, module.config)
    except (AttributeError, NotImplementedError) as error:
        raise _refused(source, error, f"the architecture {source.model_type} is not supported") from error


def _refused(source: Source, error: Exception, what: str, stage: Stage | None = None) -> DeploycompError:
    """A library's error, with its first lines as the reason."""
    if isinstance(error, DeploycompError):
        return error
    text = stage.plain(str(error)) if stage is not None else str(error)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    why = f"{type(error).__name__}: {' '.join(lines[:3])}"
    if isinstance(error, MemoryError) or "can't allocate memory" in why:
        return EnvironmentFailed("there is not enough memory to load the model", where=source.name, why=why)
    return InputRefused(what, where=str(source.encoder), why=why)


def _config(stage: Stage) -> Any:
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(stage.folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:
        raise _refused(stage.source, error, "transformers cannot read config.json", stage) from error
    # They change what forward returns or how attention is computed, and a deployed model wants neither.
    config.output_attentions = config.output_hidden_states = False
    return config


def _module(stage: Stage, task: Task, config: Any) -> tuple[Any, tuple[str, ...]]:
    """Load the weights strictly."""
    source = stage.source
    kind: Any = model_class(source, task, config)
    # Neither task reads the pooler's output, so it would only be dead weight.
    extra = {"add_pooling_layer": False} if task in _HEADLESS and _takes(kind.__init__, "add_pooling_layer") else {}
    if source.plan:
        return _cut_module(kind, config, extra, stage).eval().requires_grad_(False), ()
    _check_prefix(_check_size(kind, config, extra, source), kind, source)
    try:
        module, info = kind.from_pretrained(
            stage.folder,
            config=config,
            dtype=torch.float32,
            attn_implementation="sdpa" if kind._supports_sdpa else "eager",
            local_files_only=True,
            use_safetensors=True,
            ignore_mismatched_sizes=True,  # so that every shape is reported below, by name
            output_loading_info=True,
            **extra,
        )
    except Exception as error:
        raise _refused(source, error, "transformers cannot load the weights", stage) from error
    notes = _check_loaded(module, info, source, task)
    return module.eval().requires_grad_(False), notes


def _cut_module(kind: Any, config: Any, extra: dict[str, Any], stage: Stage) -> nn.Module:
    """Build the model that the first cut was made on, repeat the cuts, and load the weights strictly."""
    from safetensors.torch import load_file

    source = stage.source
    final = {name: getattr(config, name, None) for name in source.plan.base}
    for name, value in source.plan.base.items():
        setattr(config, name, value)
    config._attn_implementation = "sdpa" if kind._supports_sdpa else "eager"
    _check_size(kind, config, extra, source)
    try:
        with torch.random.fork_rng(devices=[]):
            module: Any = kind(config, **extra)
        module.tie_weights()
        replay(module, source.plan)
        weights = load_file(stage.folder / SINGLE)
    except Exception as error:
        raise _refused(source, error, "the surgery plan cannot be repeated on the model of config.json") from error
    stated = {name: getattr(module.config, name, None) for name in final}
    if stated != final:
        raise InputRefused(
            f"config.json and surgery.json disagree: {final} against {stated}",
            where=str(source.encoder),
            hint="take both from the folder that `deploycomp compress` wrote",
        )
    _load_strictly(module, weights, source)
    return module


def _load_strictly(module: nn.Module, weights: dict[str, torch.Tensor], source: Source) -> None:
    """Load weights whose names and shapes fit exactly; of tied ones one name is enough."""
    own = module.state_dict(keep_vars=True)
    found = {id(tensor) for name, tensor in own.items() if name in weights}
    missing = [name for name, tensor in own.items() if id(tensor) not in found]
    foreign = [name for name in weights if name not in own]
    misshapen = [
        f"{name} is {list(weights[name].shape)} in the file, {list(own[name].shape)} by the surgery plan"
        for name in weights
        if name in own and weights[name].shape != own[name].shape
    ]
    for what, names in (("the file lacks", missing), ("the model lacks", foreign), ("shapes differ:", misshapen)):
        if names:
            raise InputRefused(
                f"the surgery plan and the weights do not belong together: {what} {_named(names)}",
                where=str(source.encoder),
                hint="take both from the folder that `deploycomp compress` wrote",
            )
    module.load_state_dict({name: tensor.float() for name, tensor in weights.items()}, strict=False)


def _takes(function: Callable[..., Any], name: str) -> bool:
    return name in inspect.signature(function).parameters


def _check_size(kind: Any, config: Any, extra: dict[str, Any], source: Source) -> set[str]:
    """Build the model without memory, compare its size with the file's before any is taken, and return its names."""
    try:
        with torch.device("meta"):
            module = kind(config, **extra)
        numel = sum(parameter.numel() for parameter in module.parameters())
    except Exception as error:
        raise _refused(source, error, "transformers cannot build the model that config.json describes") from error
    if numel > (CUT_GROWTH if source.plan else TOLERATED_GROWTH) * source.numel:
        raise InputRefused(
            f"config.json describes {numel:,} parameters, the weights hold {source.numel:,}",
            where=str(source.encoder / "config.json"),
            hint=_SAME_MODEL,
        )
    return {name for name, _ in module.named_parameters()}


def _check_prefix(own: set[str], kind: Any, source: Source) -> None:
    """Refuse weights that a wrapper named: their values are right, and one command gives them their names back."""
    files = [source.path / name for name in source.files if name.endswith(".safetensors")]
    prefix = wrapped(source.tensors, own, str(getattr(kind, "base_model_prefix", "")))
    if prefix is None:
        return
    strip = (
        "from safetensors.torch import load_file, save_file; "
        f"w = {{k.removeprefix({prefix!r}): v.clone() for f in {[str(file) for file in files]!r} "
        "for k, v in load_file(f).items()}; "
        f"save_file(w, {str(source.encoder / SINGLE)!r}, metadata={{'format': 'pt'}})"
    )
    example = next(name for name in source.tensors if name.startswith(prefix))
    raise InputRefused(
        f"the names of the weights carry a wrapper's prefix: {prefix}",
        where=str(source.encoder),
        why=f"{example} is {kind.__name__}'s {example.removeprefix(prefix)}; {who(prefix)} put the rest before it",
        hint=f"take the prefix away: {python(strip)}",
    )


def _check_loaded(module: Any, info: dict[str, Any], source: Source, task: Task) -> tuple[str, ...]:
    """Refuse what is misshapen, missing or left over; return a note on heads that the task does not use."""
    where, kind = str(source.encoder), type(module).__name__
    mismatched = [
        f"{name} is {list(found)} in the file, {list(wanted)} by config.json"
        for name, found, wanted in info["mismatched_keys"]
    ]
    if mismatched:
        raise InputRefused(
            f"the weights do not have the shapes of config.json: {_named(mismatched)}", where=where, hint=_SAME_MODEL
        )
    unused = ("pooler.",) if task in _HEADLESS else ()
    missing = [name for name in info["missing_keys"] if not name.endswith(_BUFFERS) and not name.startswith(unused)]
    if missing:
        head = all(name.startswith(_HEADS) or ".pooler." in name for name in missing)
        raise InputRefused(
            f"the checkpoint lacks weights that {task} needs: {_named(missing)}",
            where=where,
            why=f"{kind} would start with random values there",
            hint=_NO_HEAD if head else _SAME_MODEL,
        )
    left = [name for name in info["unexpected_keys"] if not name.endswith(_BUFFERS)]
    foreign = [name for name in left if not _droppable(name, module)]
    if foreign:
        raise InputRefused(
            f"the checkpoint holds weights that {kind} has no place for: {_named(foreign)}",
            where=where,
            why="the result would not be the model that was trained",
            hint=_SAME_MODEL,
        )
    return (f"dropped weights that {task} does not use: {_named(left)}",) if left else ()


def _droppable(name: str, module: Any) -> bool:
    """Whether a leftover weight belongs to a head (or pooler) that this class does not have at all."""
    base = str(getattr(module, "base_model_prefix", ""))
    below = name.removeprefix(f"{base}.")
    encoder = getattr(module, base, module)
    if name.startswith(_SECOND_HEADS):
        return True
    if below.startswith("pooler."):
        return getattr(module, "pooler", None) is None and getattr(encoder, "pooler", None) is None
    return name.startswith(_HEADS) and getattr(module, name.partition(".")[0], None) is None


def _named(names: Iterable[str]) -> str:
    """The first few names, and the count where there are more."""
    every = sorted(names)
    return ", ".join(every[:NAMED]) + (f" and more, {len(every)} in all" if len(every) > NAMED else "")


def _check_finite(module: nn.Module, source: Source) -> None:
    """Refuse NaN and infinity, by tensor and count."""
    bad: list[str] = []
    for name, tensor in module.state_dict().items():
        if tensor.is_floating_point():
            finite = torch.isfinite(tensor)
            if not finite.all():
                bad.append(f"{name} ({tensor.numel() - int(finite.sum())} of {tensor.numel()})")
    if bad:
        raise InputRefused(
            f"weights are not finite: {_named(bad)}",
            where=str(source.encoder),
            why="NaN or infinity, which training leaves behind when it diverges",
            hint="take an earlier checkpoint",
        )


def _max_length(module: nn.Module, config: Any, tokenizer: Any, anatomy: Anatomy, sentence: Sentence | None) -> int:
    """What the position table allows, and below it what the source's own library cuts at.

    sentence-transformers' `max_seq_length` stands in for the tokenizer's limit, also where it is the larger one.
    """
    stated = sentence.max_length if sentence is not None else None
    limits = [stated or tokenizer.model_max_length, getattr(config, "max_position_embeddings", None)]
    table: Any = module.get_submodule(anatomy.embeddings["position"]) if "position" in anatomy.embeddings else None
    if table is not None:
        # RoBERTa-likes and MPNet start to count after the padding index, so its rows up to there are never reached.
        limits.append(table.weight.shape[0] - (0 if table.padding_idx is None else table.padding_idx + 1))
    found = [int(limit) for limit in limits if isinstance(limit, int) and 0 < limit < _NO_LIMIT]
    return min(found, default=DEFAULT_MAX_LENGTH)


def _labels(config: Any) -> tuple[str, ...]:
    return tuple(str(config.id2label[index]) for index in sorted(config.id2label))


def _problem_type(config: Any, labels: tuple[str, ...] | None) -> str:
    """What the config says, else what transformers assumes from the number of labels."""
    stated = getattr(config, "problem_type", None)
    return str(stated) if stated else ("regression" if len(labels or ()) == 1 else "single_label_classification")


def _activation(source: Source, problem_type: str | None, labels: tuple[str, ...] | None) -> str:
    """What the source's own library puts over the one score of a model that gives one: "sigmoid" or "identity".

    A CrossEncoder of sentence-transformers says so in its config, and means a sigmoid where it does not; transformers'
    pipeline takes the sigmoid unless the config says that it is a regression.
    """
    if problem_type != "regression":
        return "identity"
    config = source.config
    if config.get("problem_type") == "regression" and not cross_encoder(config):
        return "identity"
    stated = cross_activation(config)
    if stated is None:
        return "sigmoid" if len(labels or ()) == 1 else "identity"
    if stated not in _ACTIVATIONS:
        raise InputRefused(
            f"the activation over the score is not supported: {stated}",
            where=str(source.encoder / "config.json"),
            why=f"known: {', '.join(_ACTIVATIONS)}",
        )
    return _ACTIVATIONS[stated]
