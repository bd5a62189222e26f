"""Factorization: matrices stored as factors or as what a decoder rebuilds them from, one method, one file."""
