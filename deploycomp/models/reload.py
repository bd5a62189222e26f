"""Load any checkpoint, compressed or not, as an ordinary transformers model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["load"]


def load(model: str | Path, task: str = "auto") -> PreTrainedModel:
    """Load a checkpoint as transformers would, repeating the cuts of `surgery.json` where there are any.

    Args:
        model: A folder that `deploycomp compress` wrote, any other model folder, or a hub id.
        task: A task, or `auto`.

    Returns:
        A transformers model in FP32 and eval mode, its parameters trainable; what `save_pretrained` writes loads again
        together with the folder's `surgery.json`.

    Raises:
        InputRefused: The checkpoint is corrupt, unsafe or unsupported.
    """
    from deploycomp.models.load import load as load_model
    from deploycomp.models.source import resolve

    module = load_model(resolve(model), task).module
    return module.requires_grad_(True)  # type: ignore[return-value]
