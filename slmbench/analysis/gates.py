"""Gates: how large a slowdown must be to fail a check, per metric and per case, from a small YAML file.

::

    gate: 5%                 # everything not named below
    alpha: 1%                # chance that a check of identical runs says "regressed"
    metrics:
      tpot: 3%
      "load": 20%            # naming a metric also has it judged
      kl: 0.01               # quality: nats a token (kl, log_perplexity), or a share of tokens (other_top1)
    cases:
      "mu-*|openvino|*":     # glob over case keys; the last one that fits wins
        ttft: 2%
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path

import yaml

from slmbench.analysis.metrics import DEFAULT_METRICS, METRICS
from slmbench.analysis.noise import DEFAULT_FLOOR, Shift
from slmbench.analysis.quality_metrics import QUALITY_METRICS
from slmbench.errors import BadInputError, nearest
from slmbench.system.files import read_regular
from slmbench.system.yaml_reader import MAX_FILE_BYTES, compose_yaml

#: Where nobody asked for another. Separate runs on a machine without a calibration have DEFAULT_FLOOR.
DEFAULT_GATE = 0.05
#: The same for people.
DEFAULT_GATE_TEXT = f"{DEFAULT_GATE:.0%}, or {DEFAULT_FLOOR:.0%} on a machine that was never calibrated"
DEFAULT_ALPHA = 0.01
_KEYS = ("gate", "alpha", "metrics", "cases")


@dataclass(frozen=True)
class Rule:
    """One line of a gates file: which metrics of which cases, and the gate as a share."""

    metric: str
    case: str
    gate: float

    def fits(self, metric: str, case_key: str) -> bool:
        """Return whether the rule is about that metric of that case."""
        return fnmatchcase(metric, self.metric) and fnmatchcase(case_key, self.case)


@dataclass(frozen=True)
class Gates:
    """What a check lets pass."""

    #: None where nobody asked for one.
    default: float | None = None
    #: Family-wise error rate of a whole check, two-sided.
    alpha: float = DEFAULT_ALPHA
    rules: tuple[Rule, ...] = ()

    def gate(self, metric: str, case_key: str) -> float:
        """Return the gate of a metric of a case: that of the last rule that fits.

        A share of a time says nothing of nats: rules for all metrics are not about quality.
        """
        if (asked := self._asked(metric, case_key)) is not None:
            return asked
        quality = QUALITY_METRICS.get(metric)
        return quality.gate if quality else DEFAULT_GATE

    def gate_over(self, shift: Shift | None, metric: str, case_key: str) -> float:
        """Return the gate of a time, where it is held against that shift between runs.

        Where nobody asked for a gate and the shift is not known, it is the smallest that such runs are judged at.
        """
        asked = self._asked(metric, case_key)
        assumed = shift is not None and bool(shift.assumed)
        return asked if asked is not None else DEFAULT_FLOOR if assumed else DEFAULT_GATE

    def _asked(self, metric: str, case_key: str) -> float | None:
        quality = metric in QUALITY_METRICS
        rules = [rule for rule in self.rules if not quality or rule.metric != "*"]
        fitting = [rule.gate for rule in rules if rule.fits(metric, case_key)]
        return fitting[-1] if fitting else None if quality else self.default

    def metrics(self) -> list[str]:
        """Return what is judged: the default metrics and every one that a rule names."""
        named = [name for name in METRICS if any(fnmatchcase(name, rule.metric) for rule in self.rules)]
        return list(dict.fromkeys([*DEFAULT_METRICS, *(n for n in named if self._is_named(n))]))

    def names(self, metric: str, case_key: str) -> bool:
        """Return whether a rule for that case names the metric itself, not only by a pattern."""
        return any(rule.metric == metric and rule.fits(metric, case_key) for rule in self.rules)

    def _is_named(self, name: str) -> bool:
        return any(rule.metric != "*" and fnmatchcase(name, rule.metric) for rule in self.rules)

    def idle_rules(self, case_keys: list[str]) -> list[str]:
        """Return the case patterns that fit no case: they guard nothing."""
        return sorted({rule.case for rule in self.rules if not any(fnmatchcase(key, rule.case) for key in case_keys)})

    def with_default(self, gate: float | None) -> Gates:
        """Return the gates with another default."""
        return self if gate is None else replace(self, default=gate)


def gates_of(file: Path | None, default: str | None) -> Gates:
    """Return the gates of a file, with another default if one is given.

    Raises:
        BadInputError: the file or the default is wrong.
    """
    gates = read_gates(file) if file else Gates()
    return gates.with_default(parse_share(default, "--gate") if default is not None else None)


def parse_share(text: str, where: str) -> float:
    """Return ``5%`` or ``0.05`` as 0.05.

    Raises:
        BadInputError: not a share above 0 and below 1000 %.
    """
    raw = text.strip()
    try:
        value = float(raw.removesuffix("%")) / (100 if raw.endswith("%") else 1)
    except ValueError:
        value = math.nan
    if not raw.endswith("%") and 10 <= value < 1000:
        raise BadInputError(f"{where}: '{raw}' is not a valid gate; write {raw}% or {value / 100:g}")
    if not 0 < value < 10:
        raise BadInputError(f"{where}: '{raw}' is not a valid gate; write 5% or 0.05")
    if not raw.endswith("%") and value >= 1:
        raise BadInputError(f"{where}: '{raw}' would be {value:.0%}; write {raw}% if that many percent are meant")
    return value


def read_gates(path: Path) -> Gates:
    """Read a gates file.

    Raises:
        BadInputError: with file and line: not readable, no YAML, an unknown key or metric, or a gate that is not valid.
    """
    try:
        root = compose_yaml(read_regular(path, MAX_FILE_BYTES).decode(), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise BadInputError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or 'not UTF-8'}") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = mark.line + 1 if mark else 1
        raise BadInputError(f"{path}:{line}: not YAML: {getattr(error, 'problem', None) or error}") from error
    if root is None:
        raise BadInputError(f"{path}:1: an empty gates file; `gate: 5%` would be one")
    gates = Gates()
    rules: list[Rule] = []
    for key, name, node in _entries(root, path):
        if name not in _KEYS:
            raise BadInputError(f"{_at(path, key)}: unknown key '{name}'. Known: {', '.join(_KEYS)}.")
        if name == "gate":
            gates = replace(gates, default=_share(node, path))
        elif name == "alpha":
            gates = replace(gates, alpha=_alpha(node, path))
        elif name == "metrics":
            rules = [*_metric_rules(node, path, "*"), *rules]
        else:
            for _, pattern, entries in _entries(node, path):
                rules += _metric_rules(entries, path, pattern)
    return replace(gates, rules=tuple(rules))


def _metric_rules(node: yaml.Node, path: Path, case: str) -> list[Rule]:
    if isinstance(node, yaml.ScalarNode):
        return [Rule("*", case, _share(node, path))]
    rules = []
    for key, pattern, value in _entries(node, path):
        known = [*METRICS, *QUALITY_METRICS]
        if not any(fnmatchcase(name, pattern) for name in known):
            raise BadInputError(
                f"{_at(path, key)}: unknown metric '{pattern}'. Known: {', '.join(known)}.{nearest(pattern, known)}"
            )
        rules.append(Rule(pattern, case, _share(value, path)))
    return rules


def _entries(node: yaml.Node, path: Path) -> list[tuple[yaml.Node, str, yaml.Node]]:
    if not isinstance(node, yaml.MappingNode):
        raise BadInputError(f"{_at(path, node)}: a mapping is expected (name: value)")
    for key, _ in node.value:
        if not isinstance(key, yaml.ScalarNode):
            raise BadInputError(f"{_at(path, key)}: a name is expected before the colon")
    return [(key, key.value, value) for key, value in node.value]


def _share(node: yaml.Node, path: Path) -> float:
    if not isinstance(node, yaml.ScalarNode):
        raise BadInputError(f"{_at(path, node)}: a gate is expected, as 5%")
    return parse_share(node.value, _at(path, node))


def _alpha(node: yaml.Node, path: Path) -> float:
    alpha = _share(node, path)
    if alpha > 0.2:
        raise BadInputError(f"{_at(path, node)}: alpha {alpha:.0%} is too large; the maximum is 20%")
    return alpha


def _at(path: Path, node: yaml.Node) -> str:
    return f"{path}:{node.start_mark.line + 1}"
