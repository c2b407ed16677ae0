"""The tokens of a reference for an artifact that the user brings, from torch, in a process of its own.

``python -m slmbench.export.reference REFERENCE ENDS UNFED [pictures]``: prints the golden record, of prompts after
pictures with the last word. ENDS, a JSON list, are the tokens that the artifact never gives, so that both suppress the
same; UNFED, another, those that it cannot be fed, and that no prompt holds.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Sequence

from slmbench.errors import ERROR_PREFIX, SlmbenchError, one_line
from slmbench.export.build import golden_record
from slmbench.models.artifact import ArtifactSpec, GoldenRecord
from slmbench.models.checkpoint import Checkpoint, resolve
from slmbench.system.telemetry import output_is_ours


def reference_record(
    checkpoint: Checkpoint, ends: list[int], unfed: Sequence[int] = (), *, pictures: bool = False
) -> GoldenRecord:
    """Return what torch makes of the golden prompts in fp32, with ``ends`` suppressed and ``unfed`` in no prompt.

    Raises:
        CannotRunError: torch or transformers is missing, or does not load the checkpoint.
    """
    own = hashlib.sha256(json.dumps([checkpoint.digest, ends, *([list(unfed)] if unfed else [])]).encode()).hexdigest()
    asked = checkpoint.model_copy(update={"eos_token_ids": tuple(ends), "unfed_token_ids": tuple(unfed), "digest": own})
    text = ArtifactSpec(format="torch", exporter="none")
    spec = ArtifactSpec(format="openvino", exporter="optimum", pictures=True) if pictures else text
    return golden_record(asked, spec, lambda _: None)


def main() -> int:
    """Print the record of the reference named on the command line."""
    try:
        with output_is_ours():
            ends, unfed = map(json.loads, sys.argv[2:4])
            record = reference_record(resolve(sys.argv[1]), ends, unfed, pictures=len(sys.argv) > 4)
    except SlmbenchError as error:
        sys.stderr.write(f"{ERROR_PREFIX}{one_line(str(error))}\n")
        return error.exit_code
    sys.stdout.write("\n" + record.model_dump_json() + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
