"""JSON from a file that is not trusted: every value is checked before it is used, and no error repeats one."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Self, TypeVar

from surgeon.bounded_json import BoundError
from surgeon.bounded_json import parse as parse_json
from surgeon.errors import PlanError, SurgeonError

T = TypeVar("T")

REMEDY = "Make the plan anew and save it again."
LONGEST_TEXT = 2**24
"""Characters of JSON: parsed, they may take twenty times the memory."""

MOST_VALUES, DEEPEST_JSON = 2**19, 20
LONGEST_NAME = 1000
DEEPEST = 5
LARGEST = 2**62


@dataclass(frozen=True)
class Node:
    """One value and its place in the file, which errors name.

    Attributes:
        value: decoded JSON.
        place: e.g. `file.safetensors: plan.edits[3].channels`; made of our own words and numbers only.
    """

    value: Any
    place: str

    def refusal(self, expected: str) -> SurgeonError:
        """Return the error that says what should stand here."""
        return PlanError(f"{self.place} is not {expected}.", REMEDY)

    def fields(self, *names: str) -> dict[str, Self]:
        """Return the values of an object with exactly these names."""
        if not isinstance(self.value, dict) or set(self.value) != set(names):
            raise self.refusal(f"an object of {', '.join(names)}")
        return {name: replace(self, value=self.value[name], place=f"{self.place}.{name}") for name in names}

    def entries(self) -> tuple[Self, ...]:
        """Return the values of a list."""
        if not isinstance(self.value, list):
            raise self.refusal("a list")
        places = (f"{self.place}[{index}]" for index in range(len(self.value)))
        return tuple(replace(self, value=value, place=place) for value, place in zip(self.value, places, strict=True))

    def choice(self, choices: Mapping[str, T]) -> T:
        """Return what one of these words stands for."""
        if not isinstance(self.value, str) or self.value not in choices:
            raise self.refusal(f"one of: {', '.join(choices)}")
        return choices[self.value]

    def text(self) -> str:
        """Return one line of printable characters."""
        if not isinstance(self.value, str) or not self.value.isprintable():
            raise self.refusal("a line of printable text")
        return self.value

    def name(self) -> str:
        """Return a line of at most 1,000 characters."""
        if len(text := self.text()) > LONGEST_NAME:
            raise self.refusal(f"a name of at most {LONGEST_NAME} characters")
        return text

    def whole(self, low: int, high: int) -> int:
        """Return a whole number from `low` to `high`, both included."""
        if type(self.value) is not int or not low <= self.value <= high:
            raise self.refusal(f"a whole number from {low} to {high}")
        return self.value

    def number(self, low: float, high: float) -> float:
        """Return a number from `low` to `high`, both included."""
        if type(self.value) not in (int, float) or not low <= self.value <= high:
            raise self.refusal(f"a number from {low:g} to {high:g}")
        return float(self.value)

    def truth(self) -> bool:
        """Return true or false."""
        if not isinstance(self.value, bool):
            raise self.refusal("true or false")
        return self.value

    def optional(self, read: Callable[[Self], T]) -> T | None:
        """Return None, or what `read` makes of the value."""
        return None if self.value is None else read(self)

    def setting(self) -> str | int | float | bool | None:
        """Return a single value: text, a finite number, true, false or null."""
        if isinstance(self.value, str):
            return self.name()
        if isinstance(self.value, int) and abs(self.value) <= LARGEST:
            return self.value
        if self.value is None or (isinstance(self.value, float) and math.isfinite(self.value)):
            return self.value
        raise self.refusal("text, a finite number, true, false or null")

    def named(self, read: Callable[[Self], T]) -> dict[str, T]:
        """Return an object of any printable names, with what `read` makes of each value."""
        if not isinstance(self.value, dict):
            raise self.refusal("an object")
        places = [f"{self.place}[{index}]" for index in range(len(self.value))]
        pairs = zip(places, self.value.items(), strict=True)
        return {
            replace(self, value=key, place=f"a name in {self.place}").name(): read(
                replace(self, value=value, place=place)
            )
            for place, (key, value) in pairs
        }

    def plain(self, depth: int = DEEPEST) -> Any:
        """Return the value itself, if it holds printable text only and is nested at most five deep."""
        if not depth:
            raise self.refusal(f"nested at most {DEEPEST} deep")
        if isinstance(self.value, dict):
            return self.named(lambda node: node.plain(depth - 1))
        if isinstance(self.value, list):
            return [node.plain(depth - 1) for node in self.entries()]
        return self.text() if isinstance(self.value, str) else self.value


def parse(text: str, origin: str) -> Node:
    """Return JSON text as a node.

    Args:
        text: the JSON.
        origin: where it stands, for messages.

    Raises:
        PlanError: it is too long, too deep or no JSON.
    """
    if len(text) > LONGEST_TEXT:
        raise PlanError(f"{origin} describes its plan in more than {LONGEST_TEXT} characters.", REMEDY)
    try:
        return Node(parse_json(text, most=MOST_VALUES, deepest=DEEPEST_JSON, constant=float), f"{origin}: plan")
    except BoundError as error:
        raise PlanError(f"{origin} describes its plan in JSON that is not read: {error}.", REMEDY) from error
    except ValueError as error:
        raise PlanError(f"{origin} describes its plan in something else than JSON.", REMEDY) from error
