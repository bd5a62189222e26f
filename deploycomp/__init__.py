"""Offline model compression, export and measurement for fine-tuned transformers."""
