"""How much a run may train: the same for every model of a comparison."""

from __future__ import annotations

from dataclasses import dataclass

from hdmap_mlflow.errors import BadInput
from hdmap_mlflow.numbers import PLAIN

UNITS = ("epochs", "steps", "maps", "seconds")  # of training; a step is one batch, a map counts each time it is seen


@dataclass(frozen=True)
class Budget:
    """An amount of training, above 0, in one of UNITS. It is spent in whole epochs, one at least."""

    unit: str
    amount: float

    @classmethod
    def of(cls, text: str) -> Budget:
        """Read `maps=20000`. Raises BadInput for another unit, and for what is no number above 0, whole but for s."""
        unit, _, amount = text.partition("=")
        if unit not in UNITS or not PLAIN.fullmatch(amount):
            raise BadInput(f"the budget '{text}' is none of {', '.join(f'{unit}=N' for unit in UNITS)}")
        if not (float(amount) > 0 and (unit == "seconds" or float(amount).is_integer())):
            raise BadInput(f"the budget '{text}' is no {'time' if unit == 'seconds' else 'whole number'} above 0")
        return cls(unit, float(amount))

    def epochs(self, maps: int, batches: int) -> int | None:
        """The whole epochs nearest to the budget, for epochs of so many maps in so many batches; None: time decides.

        Raises BadInput where a budget is below half an epoch.
        """
        if self.unit == "seconds":
            return None
        epoch = {"epochs": 1, "steps": batches, "maps": maps}[self.unit]
        if 2 * self.amount < epoch:
            raise BadInput(
                f"the budget {self} is less than half an epoch, which has {epoch} {self.unit}; give {epoch} or more, "
                "or lower data.max_train"
            )
        return max(1, round(self.amount / epoch))

    def __str__(self) -> str:
        return f"{self.unit}={self.amount:g}"
