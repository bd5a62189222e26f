"""Numbers as people read them: three significant digits, a unit, a sign that cannot be overlooked.

Every function takes a plain number in base units (bytes, milliseconds, fractions) and returns text. A number that is
missing or not finite becomes an en dash, so that no page ever shows `nan`.
"""

from __future__ import annotations

import math

__all__ = [
    "DASH",
    "count",
    "faster",
    "interval",
    "is_plain",
    "less",
    "megabytes",
    "metric_change",
    "metric_name",
    "metric_range",
    "metric_value",
    "milliseconds",
    "percent",
    "plural",
    "points",
    "ratio",
    "ratio_range",
    "scientific",
    "significant",
    "smaller",
    "spoken",
]

DASH = "–"
"""Stands where a number is missing."""

MINUS = "−"
BYTES_PER_MEGABYTE = 1_000_000
EQUAL_WITHIN = 0.005
"""Ratios closer to one than this read `1.00×`, so they are called the same."""

SMALLEST_DECIMAL = 0.001
"""Smaller errors are written with an exponent."""

PLAIN_METRICS = ("pearson", "spearman", "matthews", "cosine", "mse", "mae", "rmse", "correlation", "loss")
"""Metrics that are not fractions of a whole; they are shown as plain decimals instead of percent and points."""

METRIC_NAMES = {
    "f1": "F1",
    "em": "exact match",
    "exact_match": "exact match",
    "mcc": "MCC",
    "mse": "MSE",
    "mae": "MAE",
    "rmse": "RMSE",
    "pearson": "Pearson r",
    "spearman": "Spearman ρ",
}


def _missing(value: float | None) -> bool:
    return value is None or not math.isfinite(value)


def significant(value: float | None, digits: int = 3) -> str:
    """Write a number with *digits* significant digits, never in scientific notation: 0.0642, 6.12, 90.9, 1,320."""
    if value is None or _missing(value):
        return DASH
    if value == 0:
        return "0"
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    rounded = round(value, decimals)
    if abs(rounded) >= 10 ** (math.floor(math.log10(abs(value))) + 1):
        decimals = max(0, decimals - 1)
    return f"{rounded:,.{decimals}f}".replace("-", MINUS)


def megabytes(value: float | None) -> str:
    """Write bytes as megabytes of 10^6 bytes: `22.9 MB`."""
    if value is None or _missing(value):
        return DASH
    return f"{significant(value / BYTES_PER_MEGABYTE)} MB"


def milliseconds(value: float | None) -> str:
    """Write milliseconds: `6.12 ms`."""
    return DASH if _missing(value) else f"{significant(value)} ms"


def count(value: float | None) -> str:
    """Write a count: 872 as it is, 22,700,000 as `22.7 M`."""
    if value is None or _missing(value):
        return DASH
    for size, unit in ((1e9, "G"), (1e6, "M")):
        if abs(value) >= size:
            return f"{significant(value / size)} {unit}"
    return f"{value:,.0f}"


def spoken(value: float) -> str:
    """Write a large count in words: 1,377,828,864 is `1.4 billion`, 72,731 as it is."""
    for size, word in ((1e9, "billion"), (1e6, "million")):
        if value >= size:
            return f"{significant(value / size, 2)} {word}"
    return f"{value:,.0f}"


def plural(number: int, noun: str) -> str:
    """Write a count with its noun: `1 check`, `24 checks`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def percent(fraction: float | None, digits: int = 2) -> str:
    """Write a fraction as percent: 0.8945 is `89.45 %`."""
    if fraction is None or _missing(fraction):
        return DASH
    return f"{_signless(fraction * 100, digits)} %"


def points(fraction: float | None, digits: int = 2, *, unit: bool = True) -> str:
    """Write a signed change of a fraction in percentage points: −0.0011 is `−0.11 pt`."""
    if fraction is None or _missing(fraction):
        return DASH
    return _signed(fraction * 100, digits) + (" pt" if unit else "")


def interval(low: float | None, high: float | None, digits: int = 1) -> str:
    """Write the two ends of an interval of fractions, in percent without the sign: `87.2…91.3`."""
    if low is None or high is None or _missing(low) or _missing(high):
        return DASH
    return f"{_signless(low * 100, digits)}…{_signless(high * 100, digits)}"


def _signed(value: float, digits: int) -> str:
    """A sign always stands there, except before a zero."""
    rounded = round(value, digits)
    if rounded == 0:
        return f"{0:.{digits}f}"
    return f"{rounded:+.{digits}f}".replace("-", MINUS)


def _signless(value: float, digits: int) -> str:
    return f"{round(value, digits) + 0.0:.{digits}f}".replace("-", MINUS)


def ratio(value: float | None) -> str:
    """Write a ratio: `0.92×`, `1.08×`, `2.4×`, `12×`."""
    if value is None or _missing(value) or value < 0:
        return DASH
    digits = 2 if value < 1.995 else 1 if value < 9.95 else 0
    return f"{value:,.{digits}f}×"


def ratio_range(low: float | None, high: float | None) -> str:
    """Write the interval of a ratio: `0.86…1.43`."""
    if low is None or high is None or _missing(low) or _missing(high):
        return DASH
    return f"{ratio(low).removesuffix('×')}…{ratio(high).removesuffix('×')}"


def _compared(value: float | None, better: str, worse: str, same: str) -> str:
    if value is None or _missing(value) or value <= 0:
        return DASH
    if abs(value - 1) < EQUAL_WITHIN:
        return same
    return f"{ratio(value)} {better}" if value > 1 else f"{ratio(1 / value)} {worse}"


def smaller(value: float | None) -> str:
    """Put the ratio reference / candidate of two sizes into words: `4.0× smaller`, `1.20× larger`."""
    return _compared(value, "smaller", "larger", "same size")


def faster(value: float | None) -> str:
    """Put the ratio reference / candidate of two times into words: `2.4× faster`, `1.08× slower`."""
    return _compared(value, "faster", "slower", "same speed")


def less(value: float | None) -> str:
    """Put the ratio reference / candidate of two amounts into words: `1.5× less`, `1.08× more`."""
    return _compared(value, "less", "more", "the same")


def scientific(value: float | None) -> str:
    """Write an error that may be tiny: `3.1e−7`, `0.061`; zero is `0`."""
    if value is None or _missing(value):
        return DASH
    if value == 0 or abs(value) >= SMALLEST_DECIMAL:
        return significant(value, 2)
    mantissa, exponent = f"{value:.1e}".split("e")
    return f"{mantissa}e{int(exponent)}".replace("-", MINUS)


def is_plain(metric: str) -> bool:
    """Say whether a metric is shown as a plain decimal (a correlation, an error) instead of percent."""
    return any(word in metric.lower() for word in PLAIN_METRICS)


def metric_name(metric: str) -> str:
    """Write a metric's name for people: `exact_match` is `exact match`, `macro_f1` is `macro F1`."""
    words = METRIC_NAMES.get(metric.lower())
    return words or " ".join(METRIC_NAMES.get(word, word) for word in metric.split("_"))


def metric_value(metric: str, value: float | None) -> str:
    """Write a metric's value: percent for fractions, four decimals for the rest."""
    if value is None or _missing(value):
        return DASH
    return _signless(value, 4) if is_plain(metric) else percent(value)


def metric_range(metric: str, low: float | None, high: float | None) -> str:
    """Write a metric's confidence interval in the unit of `metric_value`."""
    if low is None or high is None or _missing(low) or _missing(high):
        return DASH
    return f"{_signless(low, 4)}…{_signless(high, 4)}" if is_plain(metric) else interval(low, high)


def metric_change(metric: str, value: float | None, *, unit: bool = True) -> str:
    """Write a signed change of a metric: points for fractions, four decimals for the rest."""
    if value is None or _missing(value):
        return DASH
    return _signed(value, 4) if is_plain(metric) else points(value, unit=unit)
