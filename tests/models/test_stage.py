"""A loader sees the private folder and nothing else: canaries beside it stay silent, pickles stay shut."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deploycomp.artifact import sha256
from deploycomp.errors import EnvironmentFailed, InputRefused
from deploycomp.models import resolve
from deploycomp.models.load import load
from deploycomp.models.stage import staged
from tests import tiny
from tests.models.canary import Canary, evil_pickle
from tests.models.test_load import feeds_of


def test_the_folder_holds_what_was_audited_and_is_gone_afterwards(folder):
    (folder / "modeling_evil.py").write_text("raise SystemExit")
    (folder / "chat_template.jinja").write_text("{{ x }}")
    (folder / "additional_chat_templates").mkdir()
    source = resolve(folder)
    with staged(source) as stage:
        assert {path.name for path in stage.folder.iterdir()} == {
            "config.json",
            "tokenizer_config.json",
            "tokenizer.json",
            "model.safetensors",
        }
        assert (stage.folder / "model.safetensors").resolve() == (folder / "model.safetensors").resolve()
        assert json.loads((stage.folder / "config.json").read_text()) == stage.config
        place = stage.folder
    assert not place.parent.exists()


def test_it_is_gone_after_an_error(folder):
    places = []
    with pytest.raises(RuntimeError), staged(resolve(folder)) as stage:
        places.append(stage.folder)
        raise RuntimeError
    assert not places[0].parent.exists()


def test_the_source_is_left_as_it_is(folder):
    before = {path.name: sha256(path) for path in folder.iterdir()}
    load(resolve(folder))
    assert {path.name: sha256(path) for path in folder.iterdir()} == before


def test_nothing_of_the_private_folder_stays_in_what_was_loaded(tmp_path):
    folder = tiny.build(tmp_path / "model", "xlm-roberta", "text-classification")
    model = load(resolve(folder))
    said = f"{vars(model.tokenizer)} {model.tokenizer.init_kwargs} {model.config.to_dict()}"
    assert "deploycomp-" not in said
    assert model.tokenizer.name_or_path == str(folder)
    model.tokenizer.save_pretrained(tmp_path / "saved")
    model.module.save_pretrained(tmp_path / "saved")  # type: ignore[operator]
    assert not any(b"deploycomp-" in path.read_bytes() for path in (tmp_path / "saved").iterdir())


def test_errors_name_the_checkpoint_and_not_the_private_folder(folder, edit):
    edit(folder / "config.json", model_type="unheard-of")
    with pytest.raises(InputRefused, match=r"cannot read config\.json") as caught:
        load(resolve(folder), "text-classification")
    assert "deploycomp-" not in str(caught.value)


BESIDE = (
    "pytorch_model.bin", "adapter_model.bin", "adapter_model.safetensors", "training_args.bin", "optimizer.pt",
    "tekken.json", "tiktoken.model", "custom.model", "chat_template.jinja", "additional_chat_templates/x.jinja",
    "generation_config.json", "preprocessor_config.json", "processor_config.json", "modeling_evil.py",
    "tokenization_evil.py", "model.safetensors.index.json", "model_fp16.safetensors", "tf_model.h5",
    "config.4.0.0.json",
)  # fmt: skip


@pytest.mark.parametrize("name", BESIDE)
def test_a_file_beside_is_not_read_by_the_loader(folder, name):
    (folder / name).parent.mkdir(exist_ok=True)
    canary = Canary(folder / name, b"{}")
    source = resolve(folder)
    canary.sang  # noqa: B018  (settings are audited; what counts is the loader)
    load(source)
    assert not canary.sang


@pytest.mark.parametrize("name", ["pytorch_model.bin", "adapter_model.bin", "model_head.pkl"])
def test_a_pickle_beside_never_runs(folder, tmp_path, name):
    (folder / name).write_bytes(evil_pickle(tmp_path / "trace"))
    load(resolve(folder), "feature-extraction")
    assert not (tmp_path / "trace").exists()


@pytest.mark.parametrize("weights", ["adapter_model.bin", "other.safetensors", "../other.safetensors"])
def test_weights_elsewhere_are_refused_by_name_and_unread(folder, tmp_path, edit, weights):
    canary = Canary(folder / weights, evil_pickle(tmp_path / "trace"))
    edit(folder / "config.json", transformers_weights=weights)
    with pytest.raises(InputRefused, match="'transformers_weights', which is refused"):
        resolve(folder)
    assert not canary.sang
    assert not (tmp_path / "trace").exists()


def test_settings_that_get_past_the_audit_still_reach_nothing(folder, tmp_path, edit, monkeypatch):
    """Were a setting missing from the closed lists, the private folder holds no such file."""
    from deploycomp.models import settings

    other = Canary(folder / "other.safetensors", (folder / "model.safetensors").read_bytes())
    edit(folder / "config.json", transformers_weights="other.safetensors")
    monkeypatch.delitem(settings.CONFIG.refused, "transformers_weights")
    monkeypatch.setitem(settings.CONFIG.honoured, "transformers_weights", lambda value: True)
    with pytest.raises(InputRefused, match="cannot load the weights"):
        load(resolve(folder))
    assert not other.sang


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "config.json"])
def test_a_file_that_changes_before_it_is_read_is_refused(folder, name):
    source = resolve(folder)
    content = (folder / name).read_bytes()
    (folder / f"{name}.new").write_bytes(content)
    (folder / f"{name}.new").replace(folder / name)
    with pytest.raises(InputRefused, match=f"{name} changed while the model was loaded"):
        load(source)


def test_a_file_that_changes_while_it_is_read_is_refused(folder, monkeypatch):
    from deploycomp.models import load as loading

    real = loading.load_tokenizer

    def slow(stage: Any, task: str) -> Any:
        status = (folder / "model.safetensors").stat()
        os.utime(folder / "model.safetensors", ns=(status.st_atime_ns, status.st_mtime_ns + 1))
        return real(stage, task)

    monkeypatch.setattr(loading, "load_tokenizer", slow)
    with pytest.raises(InputRefused, match=r"model\.safetensors changed while the model was loaded"):
        load(resolve(folder))


def test_a_file_that_goes_is_refused(folder):
    source = resolve(folder)
    (folder / "tokenizer.json").unlink()
    with pytest.raises(InputRefused, match=r"tokenizer\.json changed"):
        load(source)


def test_no_room_for_the_private_folder(folder, monkeypatch):
    def full(*_: Any, **__: Any) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tempfile, "mkdtemp", full)
    with pytest.raises(EnvironmentFailed, match="a temporary folder cannot be made") as caught:
        load(resolve(folder))
    assert "TMPDIR" in str(caught.value.hint)


def test_a_hub_snapshot_of_links_loads(bert, tmp_path):
    from tests.models.test_audit import as_hub_cache

    model, plain = load(resolve(as_hub_cache(bert, tmp_path))), load(resolve(bert))
    feeds = feeds_of(plain)
    np.testing.assert_array_equal(model.run(feeds, ("logits",))[0], plain.run(feeds, ("logits",))[0])


def test_an_encoder_in_a_folder_of_its_own(sentence, tmp_path):
    folder = Path(shutil.copytree(sentence, tmp_path / "sentences"))
    (folder / "0_Transformer").mkdir()
    for path in [path for path in folder.iterdir() if path.is_file() and not path.name.startswith(("modules", "conf"))]:
        shutil.move(path, folder / "0_Transformer" / path.name)
    shutil.move(folder / "config.json", folder / "0_Transformer" / "config.json")
    modules = json.loads((folder / "modules.json").read_text())
    modules[0]["path"] = "0_Transformer"
    (folder / "modules.json").write_text(json.dumps(modules))
    assert load(resolve(folder)).task == "sentence-similarity"
