"""Compress a loaded model: torch → torch, one method, one file."""
