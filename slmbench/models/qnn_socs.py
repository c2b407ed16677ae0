"""Qualcomm's systems on a chip that have an HTP: the numbers that its libraries want and do not check.

The QNN library takes any ``soc_model`` and ``htp_arch``, nonsense included, so a name is looked up here. Numbers:
the table "Supported Snapdragon devices" in the Qualcomm AI Engine Direct documentation; they are public in
pytorch/executorch (backends/qualcomm/serialization/qc_schema.py) too.
"""

from __future__ import annotations

from dataclasses import dataclass

from slmbench.errors import BadInputError, nearest


@dataclass(frozen=True)
class Soc:
    """One system on a chip: QNN's number of it, and the version of its Hexagon tensor processor."""

    name: str
    soc_model: int
    htp_arch: int
    product: str


SOCS: dict[str, Soc] = {
    soc.name: soc
    for soc in (
        Soc("sm8350", 30, 68, "Snapdragon 888"),
        Soc("sm8450", 36, 69, "Snapdragon 8 Gen 1"),
        Soc("sm8475", 42, 69, "Snapdragon 8+ Gen 1"),
        Soc("sm8550", 43, 73, "Snapdragon 8 Gen 2"),
        Soc("sm8650", 57, 75, "Snapdragon 8 Gen 3"),
        Soc("sm8750", 69, 79, "Snapdragon 8 Elite"),
        Soc("sm8850", 87, 81, "Snapdragon 8 Elite Gen 5"),
        Soc("sc8380xp", 60, 73, "Snapdragon X Elite"),
        Soc("qcm6490", 93, 68, "QCM6490"),
        Soc("qcs9100", 77, 73, "QCS9100"),
        Soc("sa8255", 52, 73, "SA8255P"),
        Soc("sa8295", 39, 68, "SA8295P"),
    )
}

#: The chip that is emulated by default.
EMULATED = SOCS["sc8380xp"]


def find_soc(name: str) -> Soc:
    """Return the chip of that name, in any case.

    Raises:
        BadInputError: it is not in the list.
    """
    soc = SOCS.get(name.lower())
    if soc is None:
        known = ", ".join(SOCS)
        raise BadInputError(f"unknown Qualcomm chip '{name}'. Known: {known}.{nearest(name.lower(), list(SOCS))}")
    return soc


def target_soc(target: str | None) -> Soc | None:
    """Return the chip that an artifact's target names: ``qnn-sm8550`` one, ``qnn`` none in particular.

    Raises:
        BadInputError: not a QNN target, or an unknown chip.
    """
    engine, _, name = (target or "").partition("-")
    if engine != "qnn":
        raise BadInputError(f"unknown target '{target}': known are qnn and qnn-CHIP ({', '.join(SOCS)})")
    return find_soc(name) if name else None
