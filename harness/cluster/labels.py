"""Select nodes by their labels, with the operators of Ray's label selectors.

Source: Ray's documentation, "Use labels to control scheduling": `value`, `!value`,
`in(one,other)` and `!in(one,other)`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from ...loaders.base.errors import InputError

_SELECTOR = re.compile(r"\s*([\w./-]+)\s*=\s*(!?)\s*(?:in\(([^()]*)\)|([\w./-]+))\s*(?:,|$)")


@dataclass(frozen=True)
class Selector:
    """A label and the values that are wanted, or not wanted."""

    label: str
    values: frozenset[str]
    is_wanted: bool = True

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Whether a node with these labels is selected; one without the label has no value."""
        return (labels.get(self.label) in self.values) == self.is_wanted


def parse_selectors(text: str) -> list[Selector]:
    """The selectors of a text, all of which a node must match.

    >>> [one.label for one in parse_selectors("ray.io/accelerator-type=!H100,disk=in(ssd,nvme)")]
    ['ray.io/accelerator-type', 'disk']

    Raises:
        InputError: another form.
    """
    found, at = [], 0
    while at < len(text):
        match = _SELECTOR.match(text, at)
        if match is None:
            raise InputError(
                f"--ray-labels {text} is not understood from {text[at:]!r} on; give label=value, "
                "label=!value, label=in(one,other) or label=!in(one,other), separated by commas"
            )
        label, negation, several, one = match.groups()
        values = [one] if several is None else several.split(",")
        found.append(Selector(label, frozenset(map(str.strip, values)), not negation))
        at = match.end()
    if not found:
        raise InputError("--ray-labels is empty; give label=value, or leave it out")
    return found


def matches(selectors: list[Selector], labels: Mapping[str, str]) -> bool:
    """Whether a node's labels match all selectors."""
    return all(one.matches(labels) for one in selectors)
