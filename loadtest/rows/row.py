"""What is a row, and is what it asks for reached?"""

import statistics


class Row:
    """One line of the table: what was to be reached, what there is at best, and what each round came to."""

    def __init__(self, what, target, summit, values, unit=""):
        """`target` and `summit` are written as they are read: `≤ 1.25`, `≥ 0.85`."""
        self.what, self.target, self.summit, self.values, self.unit = what, target, summit, values, unit

    def verdict(self):
        """By the median; `summit` where even that is reached."""
        median = statistics.median(self.values)
        if not holds(self.target, median):
            return "**missed**"
        return "summit" if holds(self.summit, median) else "reached"

    def cells(self):
        low, middle, high = min(self.values), statistics.median(self.values), max(self.values)
        return [self.what, self.target + self.unit, self.summit + self.unit, number(low), f"**{number(middle)}**",
                number(high), self.verdict()]


HEAD = ["what", "target", "summit", "min", "median", "max", "verdict"]


def holds(bound, value):
    sign, limit = bound.split()
    # As it is printed: 1.2549 is 1.25.
    return float(number(value)) <= float(limit) if sign == "≤" else float(number(value)) >= float(limit)


def number(value):
    """Three digits that count, no more."""
    return f"{value:.2f}" if abs(value) < 10 else f"{value:.1f}" if abs(value) < 100 else f"{value:.0f}"
