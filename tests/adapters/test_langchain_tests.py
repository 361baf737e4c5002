"""LangChain's own standard tests of tools, on all three."""

from typing import Any

import pytest

from agentos_parallel import FanOutTool, ParallelGatherTool, ParallelMapTool, SubAgent

pytest.importorskip("langchain_tests")

from langchain_tests.integration_tests import ToolsIntegrationTests
from langchain_tests.unit_tests import ToolsUnitTests


class Agents:
    """What the tools are made with."""

    @property
    def tool_constructor_params(self) -> dict[str, Any]:
        return {"agents": [SubAgent("shout", "Says it louder.", str.upper)]}


class Gather(Agents):
    @property
    def tool_constructor(self) -> Any:
        return ParallelGatherTool

    @property
    def tool_invoke_params_example(self) -> dict[str, Any]:
        return {"tasks": [{"agent": "shout", "input": "hear"}]}


class FanOut(Agents):
    @property
    def tool_constructor(self) -> Any:
        return FanOutTool

    @property
    def tool_invoke_params_example(self) -> dict[str, Any]:
        return {"input": "hear"}


class Map(Agents):
    @property
    def tool_constructor(self) -> Any:
        return ParallelMapTool

    @property
    def tool_invoke_params_example(self) -> dict[str, Any]:
        return {"agent": "shout", "inputs": ["hear"]}


class TestGatherUnit(Gather, ToolsUnitTests):
    """``parallel_gather``."""


class TestGatherIntegration(Gather, ToolsIntegrationTests):
    """``parallel_gather``, called."""


class TestFanOutUnit(FanOut, ToolsUnitTests):
    """``fan_out``."""


class TestFanOutIntegration(FanOut, ToolsIntegrationTests):
    """``fan_out``, called."""


class TestMapUnit(Map, ToolsUnitTests):
    """``parallel_map``."""


class TestMapIntegration(Map, ToolsIntegrationTests):
    """``parallel_map``, called."""
