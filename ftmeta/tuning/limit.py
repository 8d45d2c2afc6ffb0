"""What a tuning may spend: wall seconds, device-seconds, or money."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ftmeta.errors import UserError

Kind = Literal["wall", "device", "usd"]


@dataclass
class Spent:
    """So far, over all sessions of a tuning."""

    wall_s: float = 0.0
    device_s: float = 0.0  # of all slots: training, evaluation, and what the optimizer took while they waited for it
    busy_s: float = 0.0  # wall seconds of slots at work


@dataclass(frozen=True)
class Limit:
    """`amount` in seconds, or US dollars. `usd_per_device_s`: the price of a device; None: not known."""

    kind: Kind
    amount: float
    usd_per_device_s: float | None = None

    def __post_init__(self) -> None:
        if not self.amount > 0:
            raise UserError(f"the budget is {self.amount:g}; give more than 0")
        if self.kind == "usd" and not self.usd_per_device_s:
            raise UserError(
                "the price of this hardware is unknown or 0, so a budget in money cannot be kept; give one in time, or "
                "a price in the file that $FTMETA_PRICES names"
            )

    def work_s(self, slots: int) -> float:
        """The whole budget in seconds of work, which an optimizer reckons with: slot-seconds for a budget of wall time,
        device-seconds otherwise."""
        if self.kind == "wall":
            return self.amount * slots
        return self._device_s

    def left(self, spent: Spent) -> float:
        """Seconds left, of wall time or of devices."""
        return self.amount - spent.wall_s if self.kind == "wall" else self._device_s - spent.device_s

    def usd(self, spent: Spent) -> float | None:
        return None if self.usd_per_device_s is None else spent.device_s * self.usd_per_device_s

    @property
    def _device_s(self) -> float:
        if self.kind == "usd":
            assert self.usd_per_device_s is not None, "checked when it was made"
            return self.amount / self.usd_per_device_s
        return self.amount
