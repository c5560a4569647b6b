"""Values that follow the training step."""

from __future__ import annotations

from nsr.config import Schedule


def schedule_value(schedule: Schedule, step: int) -> float:
    """Value of a schedule at a step: linear between the knots, constant beyond them."""
    if isinstance(schedule, (int, float)):
        return float(schedule)
    previous_step, previous = schedule[0]
    for knot_step, value in schedule:
        if step <= knot_step:
            if knot_step == previous_step:
                return float(value)
            share = max(0.0, (step - previous_step) / (knot_step - previous_step))
            return float(previous + share * (value - previous))
        previous_step, previous = knot_step, value
    return float(previous)
