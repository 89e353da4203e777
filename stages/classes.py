"""A class of drawings as a model or the judge knows it."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Class:
    """One of the classes of a run."""

    label: int
    name: str
