"""One entry of the catalog: data alone."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from slmbench.models.catalog_counts import PARAMETER_COUNTS, VISION_PARAMETER_COUNTS
from slmbench.terms import Family

#: Seed of all random weights. A change of it, or of the way weights are drawn, changes every digest.
WEIGHTS_SEED = 20250123
#: Version of the way ``slmbench.export.torch_model`` draws weights from the seed; part of every digest.
WEIGHTS_SCHEME = 2

Config = Mapping[str, Any]


@dataclass(frozen=True)
class CatalogEntry:
    """One named architecture."""

    name: str
    family: Family
    #: transformers' model_type.
    architecture: str
    #: What config.json would hold.
    config: Config
    #: The released model whose shape this is, or what it was scaled from.
    shape_of: str
    #: Where the numbers come from.
    source: str
    #: Name of the checkpoint of the other family it is compared with.
    pair: str | None = None
    #: Where pictures go in: the config of the whole, of which ``config`` is the text part's.
    whole: Config | None = None

    @property
    def parameter_count(self) -> int:
        """Return the number of the text part's parameters, tied ones once."""
        return PARAMETER_COUNTS[self.name]

    @property
    def vision_parameter_count(self) -> int:
        """Return the number of parameters of the part that reads pictures, 0 where there is none."""
        return VISION_PARAMETER_COUNTS[self.name] if self.whole is not None else 0

    @property
    def total_parameters(self) -> int:
        """Return the number of all parameters."""
        return self.parameter_count + self.vision_parameter_count

    @property
    def normalised_after(self) -> bool:
        """Return whether blocks of the text part are normalised after they are added."""
        return self.architecture in ("bart", "marian")

    @property
    def quiet_attention(self) -> bool:
        """Return whether the decoder's attention is drawn smaller.

        It reads hundreds of picture tokens that are alike, so that random attention gives nearly the same at every
        step. Normalised after adding, it would outweigh the token that is fed, and every answer would be one token.
        """
        return self.whole is not None and self.normalised_after

    def digest(self) -> str:
        """Return the SHA-256 over the config, the seed and the way weights are drawn from it."""
        drawn = [WEIGHTS_SCHEME, WEIGHTS_SEED, self.architecture, self.config]
        drawn += [] if self.whole is None else [self.whole]
        drawn += ["quiet attention"] if self.quiet_attention else []
        return hashlib.sha256(json.dumps(drawn, sort_keys=True).encode()).hexdigest()
