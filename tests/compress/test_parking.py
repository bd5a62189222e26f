"""What waits in a file is what it was, to everyone who has it."""

from __future__ import annotations

import os

import pytest
import torch
from torch import nn

from deploycomp.compress.parking import Parked, Parking


def test_parked_tensors_come_back_as_they_were(tmp_path):
    half = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(0)).half()
    parked = Parked({"0.heads": [half, half[:, :2]], "none": []}, tmp_path / "sums.safetensors")
    assert list(parked) == ["0.heads", "none"]
    assert len(parked) == 2
    assert parked["none"] == []
    for found, given in zip(parked["0.heads"], [half, half[:, :2]], strict=True):
        assert found.dtype == torch.float16
        assert torch.equal(found, given)
    with pytest.raises(KeyError):
        parked["1.heads"]


def test_what_a_reader_changes_is_its_own(tmp_path):
    parked = Parked({"sums": [torch.zeros(4)]}, tmp_path / "sums.safetensors")
    parked["sums"][0].add_(1)
    assert torch.equal(parked["sums"][0], torch.zeros(4))


@pytest.mark.skipif(os.name == "nt", reason="nothing is parked on Windows")
def test_a_parked_module_is_the_same_module(tmp_path):
    """The same parameters with the values of the file, whatever was done to them: tied ones stay tied."""
    module = nn.ModuleDict({"a": nn.Linear(8, 8), "b": nn.Linear(8, 8, bias=False)})
    module["b"].weight = module["a"].weight
    parameters = dict(module.named_parameters())
    before = {name: value.detach().clone() for name, value in parameters.items()}
    places = {name: value.data_ptr() for name, value in parameters.items()}
    file = tmp_path / "module.safetensors"
    file.write_bytes(b"of another")
    parking = Parking(module, file)
    stored = file.read_bytes()
    with torch.no_grad():
        module["a"].bias.add_(1)
    parking.rest()
    assert dict(module.named_parameters()).keys() == parameters.keys()
    for name, value in module.named_parameters():
        assert value is parameters[name]
        assert value.data_ptr() != places[name]
        assert torch.equal(value, before[name])
    assert module["b"].weight is module["a"].weight
    with torch.no_grad():
        module["a"].weight.add_(1)
    assert file.read_bytes() == stored
    file.unlink()
    assert torch.equal(module["a"].weight, before["a.weight"] + 1)
    assert torch.equal(module["a"].bias, before["a.bias"])
