"""Structured pruning: units that go physically, what they cost, and what makes up for them."""
