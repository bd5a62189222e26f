"""A tokenizer.json is tried in a child first: what panics, grows, hangs or says two things is refused by name."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from deploycomp.errors import InputRefused
from deploycomp.models import resolve, vet
from deploycomp.models.load import load
from deploycomp.models.vet import vetting
from deploycomp.models.vet_child import probes
from tests import tiny

DOUBLES = {"type": "Replace", "pattern": {"String": "q"}, "content": "qq"}


def changed(folder: Path, **parts: Any) -> Path:
    path = folder / "tokenizer.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **parts}))
    return folder


def split(regex: str) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False}


def verdict(folder: Path) -> None:
    with vetting(resolve(folder)) as vetted:
        vetted()


@pytest.mark.parametrize("arch", list(tiny.ARCHITECTURES))
def test_honest_tokenizers_pass(tmp_path, arch):
    verdict(tiny.build(tmp_path / "model", arch, "feature-extraction"))


@pytest.mark.parametrize(
    ("parts", "why"),
    [
        ({"pre_tokenizer": split(r"(?:a|aa)+\x00")}, "PanicException: "),
        ({"normalizer": {"type": "Replace", "pattern": {"Regex": r"(?:a|aa)+\x00"}, "content": ""}}, "PanicException"),
        ({"pre_tokenizer": split("(")}, "Oniguruma error"),
        ({"normalizer": {"type": "Sequence", "normalizers": [DOUBLES] * 7}}, "its normalizer makes 128 letters of 1"),
        ({"normalizer": {"type": "Sequence", "normalizers": [DOUBLES] * 20}}, "its normalizer makes 1,048,"),
        ({"model": {"type": "WordLevel", "unk_token": "none", "vocab": {"a": 0}}}, "[UNK] token"),
        ({"model": {"type": "none"}}, "Exception: "),
    ],
)
def test_a_tokenizer_that_cannot_be_run_is_refused_with_what_was_seen(folder, parts, why):
    with pytest.raises(InputRefused, match="the tokenizer cannot be read safely") as caught:
        load(resolve(changed(folder, **parts)))
    assert why in str(caught.value.why)
    assert caught.value.where == str(folder / "tokenizer.json")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('{"version": "1.0", "version": "2.0"}', "duplicate key: 'version'"),
        ('{"model": {"vocab": {"a": 0, "a": 1}}}', "duplicate key: 'a'"),
        ("[" * 100_000, "nested too deep"),
        ("[]", "not a JSON object"),
        ('{"a": ', "JSONDecodeError"),
        ("\xff", "UnicodeDecodeError"),
    ],
)
def test_a_file_that_is_no_plain_json(folder, text, why):
    (folder / "tokenizer.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(InputRefused, match="cannot be read safely") as caught:
        verdict(folder)
    assert why in str(caught.value.why)


def test_memory_is_bounded(folder, monkeypatch):
    monkeypatch.setattr(vet, "MAX_BYTES", 300_000_000)
    parts = {"normalizer": {"type": "Sequence", "normalizers": [DOUBLES] * 30}}
    with pytest.raises(InputRefused) as caught:
        verdict(changed(folder, **parts))
    assert "SIGABRT" in str(caught.value.why) or "memory" in str(caught.value.why)


def test_time_is_bounded(folder, monkeypatch):
    monkeypatch.setattr(vet, "MAX_SECONDS", 0.0)
    monkeypatch.setattr(vet, "SECONDS_PER_BYTE", 1e-9)
    with pytest.raises(InputRefused) as caught:
        verdict(folder)
    assert "it takes more than 0 s" in str(caught.value.why)


def test_no_child_is_left(folder, monkeypatch):
    children = []
    real = subprocess.Popen

    def popen(*args: Any, **options: Any) -> Any:
        children.append(real(*args, **options))
        return children[-1]

    monkeypatch.setattr(vet.subprocess, "Popen", popen)
    source = resolve(changed(folder, normalizer={"type": "Sequence", "normalizers": [DOUBLES] * 30}))
    with pytest.raises(KeyboardInterrupt), vetting(source):
        raise KeyboardInterrupt
    assert children[0].returncode == -signal.SIGKILL


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_heard_at_once(folder, tmp_path, number):
    """While the child is busy the parent waits asleep, and takes it along."""
    changed(folder, normalizer={"type": "Sequence", "normalizers": [DOUBLES] * 30})
    code = (
        "import signal, sys; from deploycomp.models import resolve; from deploycomp.models.vet import vetting\n"
        "def stop(*_): raise KeyboardInterrupt\n"
        "signal.signal(signal.SIGTERM, stop)\n"
        f"with vetting(resolve({str(folder)!r})) as vetted: print('ready', flush=True); vetted()\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    assert parent.stdout.readline() == "ready\n"
    children = Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text().split()
    parent.send_signal(number)
    _, errors = parent.communicate(timeout=5)
    assert errors.rstrip().endswith("KeyboardInterrupt")
    assert not any(os.path.exists(f"/proc/{child}") for child in children)  # noqa: PTH110


def test_without_tokenizer_json_there_is_no_child(folder, monkeypatch):
    monkeypatch.setattr(vet.subprocess, "Popen", None)
    (folder / "tokenizer.json").unlink()
    verdict(folder)


def test_the_child_imports_no_more_than_it_needs(bert):
    """It is started for every load: the library for tokenizers, and nothing of ours, of torch or of the hub."""
    code = (
        "import sys, runpy; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__'); "
        "sys.stderr.write(' '.join(sys.modules))"
    )
    packages = str(Path(pytest.__file__).parent.parent)
    arguments = [str(vet._CHILD), str(bert / "tokenizer.json"), packages, str(vet.MAX_BYTES), "10"]
    command = [sys.executable, "-I", "-S", "-c", code, *arguments]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    modules = result.stderr.split()
    assert result.stdout == "{}"
    assert "tokenizers" in modules
    assert not {"deploycomp", "huggingface_hub", "torch", "transformers"} & set(modules)


def test_probes_hold_what_the_tokenizer_looks_for():
    assert {"zq", "zq" * 64} <= set(probes(("zq",)))


def _panic() -> BaseException:
    """The library's own panic, which is no Exception."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers

    tokenizer = Tokenizer(models.WordLevel({"a": 0}, unk_token="a"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"(?:a|aa)+\x00"), "isolated")  # type: ignore[assignment]
    try:
        tokenizer.encode("a" * 4_000)
    except BaseException as error:
        return error
    raise AssertionError


def test_a_panic_is_no_exception():
    from deploycomp.errors import panicked

    assert panicked(_panic())
    assert not isinstance(_panic(), Exception)
    assert not panicked(KeyboardInterrupt())


def raising(error: BaseException) -> Callable[..., Any]:
    def fail(*_: Any, **__: Any) -> Any:
        raise error

    return fail


@pytest.mark.parametrize("kind", [_panic, lambda: ValueError("broken")])
def test_a_panic_that_the_probes_missed_is_refused_while_loading(folder, monkeypatch, kind):
    from transformers import AutoTokenizer

    monkeypatch.setattr(AutoTokenizer, "from_pretrained", raising(kind()))
    with pytest.raises(InputRefused, match="the tokenizer cannot be read"):
        load(resolve(folder))


def test_an_interruption_while_loading_stays_one(folder, monkeypatch):
    from transformers import AutoTokenizer

    monkeypatch.setattr(AutoTokenizer, "from_pretrained", raising(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        load(resolve(folder))


def test_a_panic_at_run_time_is_one_clear_error(tmp_path):
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers

    from deploycomp.runtime.encode import Settings, encode_texts, load_tokenizer

    tokenizer = Tokenizer(models.WordLevel({"a": 0}, unk_token="a"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"(?:a|aa)+\x00"), "isolated")  # type: ignore[assignment]
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    sealed = load_tokenizer(tmp_path / "tokenizer.json")
    with pytest.raises(InputRefused, match="the tokenizer fails on a text") as caught:
        encode_texts(sealed, ["good", "a" * 4_000], Settings())
    assert caught.value.where == "inputs 0 to 1"
    assert encode_texts(sealed, ["good"], Settings())[0]


def test_a_tokenizer_that_fails_on_a_text_is_refused(tmp_path):
    folder = tiny.build(tmp_path / "m", "bert", "text-classification")
    said = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**said, "unk_token": None}))
    with pytest.raises(InputRefused, match="the tokenizer fails on a text") as refused:
        load(resolve(folder))
    assert "a token for unknown characters" in str(refused.value.hint)


def test_a_token_that_only_the_post_processor_makes_needs_a_row_too(tmp_path):
    folder = tiny.build(tmp_path / "m", "modernbert", "text-classification")
    told = json.loads((folder / "tokenizer.json").read_text())
    told["post_processor"]["special_tokens"]["[SEP]"]["ids"] = [100_000]
    (folder / "tokenizer.json").write_text(json.dumps(told))
    with pytest.raises(InputRefused, match="makes token 100000 of a text, and the embedding has"):
        load(resolve(folder))


def test_packages_may_lie_in_two_places(tmp_path, monkeypatch):
    """As where a virtual environment lays one package over those of another."""
    import importlib.util

    import tokenizers

    folder = tiny.build(tmp_path / "m", "bert", "text-classification")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "tokenizers").symlink_to(Path(tokenizers.__file__).parent)
    real = importlib.util.find_spec

    def elsewhere(name: str, *rest: Any) -> Any:
        spec = real(name, *rest)
        if name == "tokenizers" and spec is not None:
            spec.origin = str(tmp_path / "elsewhere" / "tokenizers" / "__init__.py")
        return spec

    monkeypatch.setattr("deploycomp.models.vet.importlib.util.find_spec", elsewhere)
    with vetting(resolve(folder)) as vetted:
        vetted()
