"""What tests of agents need: scripted chat models that want no key and leave nothing to chance."""

from agentos_parallel.testing.models import ScriptedChatModel, ScriptExhaustedError

__all__ = ["ScriptExhaustedError", "ScriptedChatModel"]
