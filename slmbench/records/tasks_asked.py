"""What ``run.json`` says of the tasks that were asked."""

from __future__ import annotations

from pydantic import Field

from slmbench.records.without_folders import Message
from slmbench.terms import Natural, StrictModel


class TasksRecord(StrictModel):
    """The task file that a run's cases answered: no text of it."""

    #: The file's name, and the digest of its items.
    name: str
    digest: str
    items: Natural
    metrics: tuple[str, ...]
    max_new_tokens: Natural
    #: By checkpoint whether its prompts went through a chat template.
    chat_templates: dict[str, bool] = Field(default_factory=dict)
    #: Why a case does not answer, by the key of its answers (see slmbench.records.answers).
    refused: dict[str, Message] = Field(default_factory=dict)
