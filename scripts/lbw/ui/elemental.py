"""Elemental: the rule sets, and what they hit in the model that is in use."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from itertools import islice
from pathlib import Path

from lbw.plan.hits import summaries
from lbw.tags.elements import parse_rules
from lbw.tags.families import Family, family_of_layers
from lbw.tags.limits import LONGEST_TEXT
from lbw.tags.presets import DEFAULT_RULE_SETS, parse_rule_sets
from lbw.ui.text_file import TextFile

_MOST_SETS = 50


def rule_sets_in(path: Path) -> TextFile:
    return TextFile("lbwe", path, DEFAULT_RULE_SETS, parse_rule_sets, lambda rules: ", ".join(rules.splitlines()))


def hits_html(text: str, layers: list[str]) -> str:
    """What each rule of a text hits in a model with ``layers``, as nested lists that open."""
    if not layers:
        return "<p>No model is loaded yet.</p>"
    rule_sets = parse_rule_sets(text[:LONGEST_TEXT])[0]
    family = family_of_layers(layers)
    sets = "".join(_set_html(name, rules, layers, family) for name, rules in islice(rule_sets.items(), _MOST_SETS))
    more = f"<p>{len(rule_sets) - _MOST_SETS} more rule sets are not shown.</p>" if len(rule_sets) > _MOST_SETS else ""
    return f'<div class="lbw-hits">{sets}{more}</div>'


def _set_html(name: str, rules: str, layers: list[str], family: Family) -> str:
    try:
        found = summaries(parse_rules(rules, family), layers, family)
    except ValueError as error:
        return f"<p><b>{escape(name)}</b> {escape(str(error))}</p>"
    lists = "".join(_rule_html(words, hit) for words, hit in found)
    return f"<div><b>{escape(name)}</b>{lists}</div>"


def _rule_html(words: str, layers: Iterable[str]) -> str:
    items = "".join(f"<li>{escape(layer)}</li>" for layer in layers)
    return f"<details><summary>{escape(words)}</summary><ul>{items}</ul></details>"
