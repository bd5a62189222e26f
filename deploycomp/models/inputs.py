"""What a model's forward takes beside text: fed to the graph, named in a note, or a reason to refuse."""

from __future__ import annotations

import inspect
from typing import Any

from deploycomp.errors import InputRefused
from deploycomp.models.source import Source

__all__ = ["graph_inputs"]

_SENSES = {
    "bbox": "the place of every word on the page",
    "xpath_tags_seq": "the place of every word in the page's markup",
    "xpath_subs_seq": "the place of every word in the page's markup",
    **dict.fromkeys(
        ("pixel_values", "image", "images", "visual_embeds", "visual_feats", "visual_pos"), "images beside the text"
    ),
    **dict.fromkeys(("input_features", "input_values"), "sound"),
}
"""Inputs of a forward that no text holds, and what they are."""

_ORDINARY = frozenset((
    "input_ids", "attention_mask", "token_type_ids", "position_ids", "inputs_embeds", "head_mask", "cls_index",
    "labels", "start_positions", "end_positions", "is_impossible", "p_mask", "next_sentence_label",
    "sentence_order_label", "output_attentions", "output_hidden_states", "return_dict", "use_cache", "cache",
    "past_key_values", "cache_position", "encoder_hidden_states", "encoder_attention_mask", "logits_to_keep",
    "indices", "cu_seqlens", "max_seqlen", "batch_size", "seq_len", "sliding_window_mask",
    "args", "kwargs", "question_positions",
))  # fmt: skip
"""Inputs of a forward that the graph has, that follow from them, or that serve training and generation only."""


def graph_inputs(module: Any, config: Any, tokenizer: Any, source: Source) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return what the graph is fed, and a note on what else the model's forward would take.

    Token types are an input where the model embeds them and the tokenizer gives them; otherwise all are 0. So does
    transformers feed a model: a tokenizer that does not name them makes both texts of a pair the first.

    Args:
        module: The model.
        config: Its transformers config.
        tokenizer: Its tokenizer.
        source: Where they came from.

    Raises:
        InputRefused: The model reads more than text.
    """
    types = getattr(config, "type_vocab_size", None)
    embedded = not isinstance(types, int) or types > 1
    parameters = list(inspect.signature(module.forward).parameters)
    needed = [name for name in parameters if name in _SENSES]
    if needed:
        raise InputRefused(
            f"the model reads more than text: {', '.join(needed)}",
            where=str(source.encoder / "config.json"),
            why=f"{source.model_type} was trained with {_SENSES[needed[0]]}; without, it would answer otherwise",
            hint="fine-tune a model that reads text alone",
        )
    others = [name for name in parameters if name not in _ORDINARY]
    notes = (f"the graph has no input {', '.join(others)}; the model answers as without",) if others else ()
    used = embedded and "token_type_ids" in parameters and "token_type_ids" in tokenizer.model_input_names
    return ("input_ids", "attention_mask", *(("token_type_ids",) if used else ())), notes
