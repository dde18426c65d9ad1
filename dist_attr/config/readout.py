"""How tangents and a query become scores."""

from typing import Literal

ReadoutName = Literal["linear", "central-difference", "counterfactual"]
