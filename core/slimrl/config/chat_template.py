"""The chat template that prompts are rendered with: whether it is there, and what it may be told."""

from __future__ import annotations

import json
from collections.abc import Iterator

from slimrl.config.hf_folder import HfFolder
from slimrl.config.rollout import RolloutConfig

OWN_TEMPLATE_KWARGS = frozenset(
    ["conversation", "max_length", "padding", "return_dict", "return_tensors", "tokenize", "tools", "truncation"]
)


def check_chat_template(rollout: RolloutConfig) -> Iterator[str]:
    """What is wrong with --apply-chat-template-kwargs, whatever the model."""
    said, flag = rollout.apply_chat_template_kwargs, "--apply-chat-template-kwargs"
    if said is None:
        return
    if not rollout.apply_chat_template:
        yield f"{flag} has no effect without --apply-chat-template"
    try:
        values: object = json.loads(said)
    except ValueError:
        values = None
    if not isinstance(values, dict):
        yield f"{flag} takes a JSON object, e.g. '{{\"enable_thinking\": false}}'; got {said!r}"
    elif own := sorted(OWN_TEMPLATE_KWARGS & values.keys()):
        yield f"{flag}: {', '.join(own)} cannot be set, slimrl needs it as it is"


def check_template_of(model: HfFolder, rollout: RolloutConfig) -> Iterator[str]:
    """Whether the tokenizer has a template to apply, and its template the variables that are set."""
    if not rollout.apply_chat_template:
        return
    if not model.has_chat_template:
        yield f"--apply-chat-template: the tokenizer of {model.path} has no chat template"
        return
    try:
        values: object = json.loads(rollout.apply_chat_template_kwargs or "{}")
    except ValueError:
        return  # reported with the flag
    for name in values if isinstance(values, dict) else ():
        if name not in {"continue_final_message", *OWN_TEMPLATE_KWARGS} and name not in (model.chat_template or ""):
            yield f"--apply-chat-template-kwargs: the chat template of {model.path} does not know {name!r}"
