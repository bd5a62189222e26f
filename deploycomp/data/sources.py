"""Which file and which split: a local file, a folder of split files, or a hub data set, through `datasets`.

Local data is read by `datasets`' own builders straight from the files, so nothing asks the network; its cache
lies in a private folder that is gone afterwards. Hub data sets go through `load_dataset`, without scripts.
"""

from __future__ import annotations

import contextlib
import csv
import errno
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deploycomp.artifact import is_full, scratch
from deploycomp.errors import DeploycompError, EnvironmentFailed, InputRefused, UsageError
from deploycomp.readfile import decoding_error, os_error, reading

if TYPE_CHECKING:
    import datasets

__all__ = ["Table", "find_training", "open_table"]

SUFFIXES = (".jsonl", ".json", ".csv", ".tsv", ".parquet")

PREFERRED_SPLITS = ("validation", "test")
"""What is judged on when no split is named; training data is never taken silently."""

SPLIT_NAMES = {"validation": ("validation", "valid", "val", "dev"), "test": ("test",), "train": ("train",)}
"""Spellings of one split, the common one first."""

_SHARD = re.compile(r"-\d{5}-of-\d{5}$")
_HUB_ID = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?(:[\w.-]+)?")
_MAX_WHY = 300


@dataclass(frozen=True)
class Table:
    """An opened data set, before anybody knows what its columns mean.

    Args:
        name: What to call it in errors and reports; never an absolute path.
        split: The split, where the data has some.
        dataset: The rows.
    """

    name: str
    split: str | None
    dataset: datasets.Dataset

    @property
    def columns(self) -> list[str]:
        """Names of the columns, in the order of the data."""
        return list(self.dataset.column_names)

    def class_names(self, column: str) -> list[str] | None:
        """Names of a `ClassLabel` column, or of a list of them."""
        feature: Any = self.dataset.features[column]
        names = getattr(getattr(feature, "feature", feature), "names", None)
        return None if names is None else [str(name) for name in names]

    def read(self, columns: Sequence[str]) -> list[dict[str, Any]]:
        """Read some columns of every row."""
        with _refuse_unreadable(self.name):  # text is decoded only here
            return self.dataset.select_columns(list(columns)).to_list()


@contextlib.contextmanager
def open_table(data: str, *, split: str | None = None) -> Iterator[Table]:
    """Open a file, a folder of split files, or a hub data set.

    Args:
        data: A path, or `name` or `name:config` on the hub.
        split: The split to read; without it `validation`, then `test`.

    Yields:
        The opened table; local data is readable only inside the context.

    Raises:
        UsageError: No such data, no such split, or a choice that is ambiguous.
        InputRefused: The file is corrupt or empty.
        EnvironmentFailed: The hub cannot be reached.
    """
    path = Path(data).expanduser()
    if path.is_dir():
        split, files = _folder_files(path, split)
        name = _short_name(files[0] if len(files) == 1 else path)
        with _local(files, name=name, split=split) as table:
            yield table
    elif path.exists():
        if split is not None:
            raise UsageError(
                "a file has no splits",
                where=data,
                hint="leave --split out, or name the folder of the split files",
            )
        with _local([path], name=_short_name(path), split=None) as table:
            yield table
    else:
        if path.suffix.lower() in SUFFIXES or not _HUB_ID.fullmatch(data):
            raise UsageError("the data does not exist", where=data, hint="check the path given as data")
        with _quiet():
            table = _hub(data, split)
        yield table


def find_training(data: str) -> tuple[str, str | None] | None:
    """Find the train split of what a model is judged on: rows that may be learned from.

    Args:
        data: As for `open_table`.

    Returns:
        The data and its split: of a folder or a hub data set, or `train.jsonl` beside `validation.jsonl`. None where
        there is none.
    """
    path = Path(data).expanduser()
    if path.is_dir():
        return (data, "train") if "train" in _splits(path) else None
    if path.exists():
        judged = [spelling for name in PREFERRED_SPLITS for spelling in SPLIT_NAMES[name]]
        beside = path.with_name(f"train{path.suffix}")
        return (str(beside), None) if path.stem in judged and beside.is_file() else None
    return (data, "train") if _HUB_ID.fullmatch(data) and "train" in _hub_splits(data) else None


def _splits(folder: Path) -> dict[str, list[Path]]:
    """Split → its files, from `test.jsonl` or `data/test-00000-of-00002.parquet`."""
    splits: dict[str, list[Path]] = {}
    with reading(folder):  # glob says nothing of a folder that may not be listed
        os.scandir(folder).close()
    for path in sorted([*folder.glob("*"), *folder.glob("data/*")]):
        if path.suffix.lower() in SUFFIXES and path.is_file():
            splits.setdefault(_SHARD.sub("", path.stem), []).append(path)
    return splits


def _hub_splits(data: str) -> list[str]:
    """Splits of a hub data set."""
    import datasets

    name, _, config = data.partition(":")
    try:
        return [str(each) for each in datasets.get_dataset_split_names(name, config or None)]
    except Exception as error:
        raise _hub_error(error, data) from error


def _short_name(path: Path) -> str:
    """The last two parts of a path: enough to recognise it, and nobody's home directory."""
    return "/".join([part for part in path.parts if part not in ("/", ".", "..", "~")][-2:])


def _folder_files(folder: Path, wanted: str | None) -> tuple[str, list[Path]]:
    """The split to read and its files."""
    splits = _splits(folder)
    if not splits:
        raise UsageError(
            "the folder holds no data files",
            where=str(folder),
            hint=f"files of a split end in {', '.join(SUFFIXES)}",
        )
    split = _choose_split(sorted(splits), wanted, where=str(folder))
    files = splits[split]
    sharded = all(_SHARD.search(path.stem) and path.suffix == files[0].suffix for path in files)
    if len(files) > 1 and not sharded:
        names = ", ".join(path.relative_to(folder).as_posix() for path in files)
        raise UsageError(f"split '{split}' is there more than once", where=str(folder), why=names, hint="name one file")
    return split, files


def _choose_split(available: Sequence[str], wanted: str | None, *, where: str) -> str:
    """The split that was asked for, or `validation`, or `test`; never silently another one."""
    for name in PREFERRED_SPLITS if wanted is None else (wanted,):
        for spelling in (name, *SPLIT_NAMES.get(name, ())):
            if spelling in available:
                return spelling
    found = ", ".join(available)
    if wanted is not None:
        raise UsageError(f"there is no split '{wanted}'", where=where, why=f"found: {found}")
    raise UsageError(
        "no split to judge on was found",
        where=where,
        why=f"neither validation nor test is among: {found}; another split is not taken silently",
        hint=f"name it: --split {available[0]}" if available else None,
    )


@contextlib.contextmanager
def _local(files: Sequence[Path], *, name: str, split: str | None) -> Iterator[Table]:
    """Read files of one format, with a cache of their own that is gone afterwards."""
    suffix = files[0].suffix.lower()
    if suffix not in SUFFIXES:
        raise UsageError(
            f"a data file ends in {', '.join(SUFFIXES)}",
            where=name,
            why=f"this one ends in {suffix or 'nothing'}",
        )
    with scratch("deploycomp-data-") as folder, _quiet():
        # datasets reads a path as a pattern, a URL or a chain of file systems; a plain link is none of those.
        links = [folder / f"rows-{index:05}{suffix}" for index in range(len(files))]
        for link, file in zip(links, files, strict=True):
            link.symlink_to(file.resolve())
        with _refuse_unreadable(name):
            dataset = _read_files(links, suffix, cache=folder / "cache")
        yield Table(name, split, dataset)


def _read_files(files: Sequence[Path], suffix: str, *, cache: Path) -> datasets.Dataset:
    from datasets import Dataset

    paths: Any = [str(file) for file in files]
    if suffix in (".json", ".jsonl"):
        found = Dataset.from_json(paths, cache_dir=str(cache))
    elif suffix == ".parquet":
        found = Dataset.from_parquet(paths, cache_dir=str(cache))
    elif suffix == ".csv":
        # The default would read the texts "NA", "None" and "null" as missing.
        found = Dataset.from_csv(paths, cache_dir=str(cache), keep_default_na=False)
    else:
        quoting = {"sep": "\t", "quoting": csv.QUOTE_NONE}
        found = Dataset.from_csv(paths, cache_dir=str(cache), keep_default_na=False, **quoting)
    if not isinstance(found, Dataset) or not len(found):
        raise ValueError("it holds no rows")
    return found


@contextlib.contextmanager
def _refuse_unreadable(name: str) -> Iterator[None]:
    """Turn whatever pandas, pyarrow and datasets raise on a bad file into a refusal with the reason."""
    try:
        yield
    except Exception as error:
        if is_full(error):  # the place of our cache, and no fault of the data
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from error
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        if isinstance(cause, OSError) and cause.errno is not None:
            raise os_error(cause, where=name) from error
        if isinstance(cause, UnicodeDecodeError):
            raise decoding_error(cause, where=name) from error
        empty = isinstance(cause, StopIteration) or "corresponds to no data" in str(cause)
        why = "it holds no rows" if empty else str(cause).strip().splitlines()[0][:_MAX_WHY]
        raise InputRefused("the data cannot be read", where=name, why=why) from error


def _hub(data: str, wanted: str | None) -> Table:
    """Open a data set of the hub."""
    import datasets

    name, _, config = data.partition(":")
    split = _choose_split(sorted(_hub_splits(data)), wanted, where=data)
    try:
        dataset: Any = datasets.load_dataset(name, config or None, split=split)
    except Exception as error:
        raise _hub_error(error, data) from error
    if not len(dataset):
        raise InputRefused("the data cannot be read", where=data, why="it holds no rows")
    return Table(data, split, dataset)


def _hub_error(error: Exception, data: str) -> DeploycompError:
    """What a failure to open a hub data set means for the user."""
    from datasets.exceptions import DatasetNotFoundError

    why = (str(error).strip().splitlines() or [type(error).__name__])[0][:_MAX_WHY]
    if isinstance(error, DatasetNotFoundError):
        return UsageError("there is no such file, folder or hub data set", where=data, why=why)
    if isinstance(error, ValueError):
        return UsageError("the hub data set needs a configuration", where=data, why=why, hint="write it as name:config")
    if isinstance(error, RuntimeError) and "script" in why.lower():
        return InputRefused(
            "the hub data set is a script, and scripts are not run",
            where=data,
            why=why,
            hint="download it as Parquet",
        )
    return EnvironmentFailed(
        "the data is no local path, and the hub data set cannot be loaded",
        where=data,
        why=why,
        hint="check the path; or unset HF_HUB_OFFLINE; or download the data and give its file",
    )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep datasets from drawing bars and logging what we say ourselves; the caller's settings come back."""
    import datasets
    from datasets.utils import logging

    verbosity, bars = logging.get_verbosity(), datasets.are_progress_bars_disabled()
    logging.set_verbosity(logging.CRITICAL)
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if not bars:
            datasets.enable_progress_bars()
