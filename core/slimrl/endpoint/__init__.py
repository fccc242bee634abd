"""An OpenAI-compatible endpoint inside a run: agents act through it, and their turns become trainable samples."""

from __future__ import annotations

from slimrl.endpoint.server import Endpoint
from slimrl.endpoint.session import Session
from slimrl.endpoint.template import ChatTemplate

__all__ = ["ChatTemplate", "Endpoint", "Session"]
