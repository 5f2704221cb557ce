"""What a journal says about a run before its steps: its terms, and where each of them goes on from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, NamedTuple, TypedDict

from keras_adaptive_weights.deciding.config import AdaptiveWeightConfig
from keras_adaptive_weights.deciding.plain_records import FLOAT32_MAX, MAY_BE_MISSING, read_fields
from keras_adaptive_weights.deciding.state import ControllerState
from keras_adaptive_weights.deciding.term_names import REGULARIZATION
from keras_adaptive_weights.version import __version__

FORMAT = 2


class TermStart(NamedTuple):
    """What a term of the loss starts from.

    Attributes:
        weight: The base of its weight; of a fixed one, the weight.
        config: Settings of its controller. `None`: the weight is fixed.
        state: The controller's state that the steps after the header start from, as plain values. `None`: as above.
    """

    weight: float
    config: AdaptiveWeightConfig | None = None
    state: Mapping[str, Any] | None = None

    @property
    def in_force(self) -> float:
        """The weight that the loss reads on the first step."""
        state = self.state or {"weight": self.weight}
        held = state.get("held_weight")
        return float(state["weight"] if held is None else held)


@dataclass(frozen=True, slots=True)
class Header:
    """What the steps after it belong to.

    Attributes:
        run: Id of the run; a resumed run keeps it.
        terms: All terms of the loss, in its order.
        step: The step that the run goes on from.
        version: Version of the package that wrote it.
        format: Format of the lines after it.
        balance: Where the weights are decided on together: the `strategy`, as `describe` tells of it, and the `state`
            of its envelope, as plain values; the states of the terms are then parts of that. `None`: each by itself.
    """

    run: str
    terms: Mapping[str, TermStart]
    step: int = 0
    version: str = __version__
    format: int = FORMAT
    balance: Mapping[str, Any] | None = None

    @classmethod
    def of(
        cls, run: str, term: str, base_weight: float, config: AdaptiveWeightConfig, state: Mapping[str, Any]
    ) -> Header:
        """Return the header of a run that is about one term only."""
        return cls(run, {term: TermStart(base_weight, config, state)}, int(state["step"]))

    def only(self, term: str) -> Header:
        """Return the header without other terms; without any where it does not know this one."""
        return replace(self, terms={name: start for name, start in self.terms.items() if name == term})

    @property
    def adaptive(self) -> tuple[str, ...]:
        """Names of the terms with an adaptive weight."""
        return tuple(name for name, start in self.terms.items() if start.config is not None)

    @property
    def taking_part(self) -> tuple[str, ...]:
        """Names of the terms that a balance is about: not those that the loss leaves out, nor what the model adds."""
        return tuple(name for name, start in self.terms.items() if start.weight and name != REGULARIZATION)

    @property
    def term(self) -> str:
        """Name of the adaptive term; of several, the first, as in the properties below."""
        return self.adaptive[0]

    @property
    def base_weight(self) -> float:
        """Its weight's base."""
        return self.terms[self.term].weight

    @property
    def config(self) -> AdaptiveWeightConfig:
        """The settings of its controller."""
        return self.terms[self.term].config or AdaptiveWeightConfig()

    @property
    def state(self) -> Mapping[str, Any]:
        """The state of its controller."""
        return self.terms[self.term].state or {}

    @property
    def shadow(self) -> bool:
        """Whether the decisions after it were only recorded, and the weights in force stayed."""
        return self.state.get("held_weight") is not None

    def to_dict(self) -> dict[str, Any]:
        """Return the fields of its line."""
        terms = {
            name: {"weight": start.weight}
            if start.config is None
            else {"weight": start.weight, "config": start.config.to_dict(), "state": start.state}
            for name, start in self.terms.items()
        }
        about = {"version": self.version, "run": self.run, "step": self.step, "shadow": self.shadow}
        return {**about, "terms": terms, **({} if self.balance is None else {"balance": self.balance})}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Header:
        """Read the fields of a line of any format; settings and states are complete, whatever version wrote them.

        Raises:
            ValueError: A field is missing or holds something else than it should, or the format is a newer one.
        """
        version = values.get("format")
        if isinstance(version, bool) or not isinstance(version, int) or version < 1:
            raise ValueError(f"header: field `format` must be an integer from 1 on. Received: {version!r:.40}.")
        if version > FORMAT:
            raise ValueError(f"it has format {version}, this package reads up to {FORMAT}: install a newer version.")
        about = read_fields(_Line, values, "header")
        given = values.get("terms")
        if version == 1:
            start = {"weight": values.get("base_weight"), "config": values.get("config"), "state": values.get("state")}
            given = {about.get("term"): start}
        if not isinstance(given, Mapping) or not given or not all(isinstance(name, str) for name in given):
            raise ValueError(f"header: field `terms` must be a mapping of names to terms. Received: {given!r:.200}.")
        terms = {name: _read_term(term) for name, term in given.items()}
        states = [start.state for start in terms.values() if start.state is not None]
        if not states:
            raise ValueError("header: field `terms` must hold a term with an adaptive weight.")
        step, balance = max(int(state["step"]) for state in states), values.get("balance")
        if balance is not None and not _is_balance(balance):
            raise ValueError(f"header: field `balance` must hold `strategy` and `state`. Received: {balance!r:.200}.")
        return cls(about["run"], terms, step, about["version"], version, balance)


def _is_balance(values: Any) -> bool:
    parts = values if isinstance(values, Mapping) else {}
    return set(parts) == {"strategy", "state"} and all(isinstance(part, Mapping) for part in parts.values())


class _Line(TypedDict):
    version: str
    run: str
    term: Annotated[str, MAY_BE_MISSING]  # in format 1, which was about this one


def _read_term(values: Any) -> TermStart:
    weight = values.get("weight") if isinstance(values, Mapping) else None
    if isinstance(weight, bool) or not isinstance(weight, (int, float)) or not 0.0 <= weight <= FLOAT32_MAX:
        raise ValueError(f"header: field `terms` must hold weights of at least 0. Received: {values!r:.200}.")
    if "config" not in values:
        return TermStart(weight)
    settings = values["config"]
    if not isinstance(settings, dict):
        raise ValueError(f"header: field `config` must be a mapping. Received: {type(settings).__name__}.")
    try:
        config = AdaptiveWeightConfig.from_dict(settings)
        config.check_base_weight("header", "base_weight", weight)
    except TypeError as error:
        raise ValueError(str(error)) from error
    state = ControllerState.from_dict(values.get("state") or {})
    if state.within(config) != state:
        raise ValueError("header: the weights in its state are not within the bounds in its config.")
    return TermStart(weight, config, state.to_dict())
