"""Which task a checkpoint is for."""

from __future__ import annotations

import pytest

from deploycomp.errors import InputRefused
from deploycomp.models import check_task, infer_task, resolve
from deploycomp.models.load import load
from deploycomp.recipe import TASKS
from tests import tiny


@pytest.mark.parametrize("arch", ["bert", "deberta-v3", "modernbert"])
@pytest.mark.parametrize("task", TASKS)
def test_the_task_is_inferred(tmp_path, arch, task):
    assert infer_task(resolve(tiny.build(tmp_path / "model", arch, task))) == task


@pytest.mark.parametrize(
    ("architectures", "what", "why"),
    [
        ([], "names no architectures", None),
        (["BertForPreTraining"], "cannot be inferred from BertForPreTraining", "no exported task"),
        (["BertForMultipleChoice"], "cannot be inferred from BertForMultipleChoice", "multiple-choice"),
        (["NoSuchClass"], "cannot be inferred from NoSuchClass", "no exported task"),
    ],
)
def test_what_cannot_be_inferred_asks_for_the_task(folder, edit, architectures, what, why):
    edit(folder / "config.json", architectures=architectures)
    with pytest.raises(InputRefused, match=what) as caught:
        infer_task(resolve(folder))
    assert "--task text-classification|" in str(caught.value.hint)
    assert (why or "") in str(caught.value.why)


def test_a_task_that_does_not_exist(bert):
    with pytest.raises(InputRefused, match="there is no task 'sentiment'") as caught:
        check_task(resolve(bert), "sentiment")
    assert "fill-mask" in str(caught.value.hint)


@pytest.mark.parametrize("task", ["token-classification", "question-answering", "fill-mask"])
def test_another_head_than_the_trained_one_is_refused(bert, task):
    """A BERT text classifier has every weight of a token classifier; only its architecture tells them apart."""
    with pytest.raises(InputRefused, match=f"was made for text-classification, not for {task}") as caught:
        check_task(resolve(bert), task)
    assert "BertForSequenceClassification" in str(caught.value.why)


def test_sentences_need_their_modules(bert):
    with pytest.raises(InputRefused, match="does not say how sentences are pooled"):
        check_task(resolve(bert), "sentence-similarity")


def test_the_encoder_can_always_be_asked_for(bert, sentence):
    assert check_task(resolve(bert), "feature-extraction") == "feature-extraction"
    assert check_task(resolve(sentence), "feature-extraction") == "feature-extraction"
    assert check_task(resolve(sentence)) == "sentence-similarity"


def test_a_pretraining_checkpoint_serves_fill_mask(tmp_path):
    """BertForPreTraining holds the head of fill-mask and one more, which is dropped and noted."""
    import torch
    from safetensors.torch import load_file, save_file

    folder = tiny.build(tmp_path / "model", "bert", "fill-mask")
    weights = load_file(folder / "model.safetensors")
    weights["cls.seq_relationship.weight"] = torch.ones(2, 32)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    config = folder / "config.json"
    config.write_text(config.read_text().replace("BertForMaskedLM", "BertForPreTraining"))
    with pytest.raises(InputRefused, match="BertForPreTraining"):
        load(resolve(folder))
    model = load(resolve(folder), "fill-mask")
    assert model.task == "fill-mask"
    assert model.outputs == ("logits",)


def test_an_architecture_without_a_class_for_the_task(folder, edit, monkeypatch):
    from transformers import AutoModelForQuestionAnswering, BertConfig

    edit(folder / "config.json", architectures=None)
    mapping = dict(AutoModelForQuestionAnswering._model_mapping.items())
    mapping.pop(BertConfig)
    monkeypatch.setattr(AutoModelForQuestionAnswering, "_model_mapping", mapping)
    with pytest.raises(InputRefused, match="no class for question-answering with bert"):
        load(resolve(folder), "question-answering")
