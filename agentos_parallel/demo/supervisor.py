"""The supervisor: an agent whose tools run the sub-agents in parallel."""

from pathlib import Path

from langchain.agents import create_agent
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import BaseMessage, HumanMessage

from agentos_parallel import ParallelToolkit
from agentos_parallel.demo.agents import locators, reviewers, troublemakers
from agentos_parallel.demo.reviews import rank
from agentos_parallel.demo.source import parts
from agentos_parallel.demo.words import scripted_supervisor

MAX_CONCURRENT = 4
TIMEOUT = 60.0
TASK_TIMEOUT = 30.0

_PROMPT = """\
You lead sub-agents that review a Python source tree. {locators} look for its licence, each in
another place. All the others review the folder that their input names; '.' is the whole tree.

1. In one message call fan_out twice: with aggregation 'first' and the licence agents, and with
   aggregation 'all' and all reviewers, {reviewers}, for the whole tree.
2. Then call fan_out with aggregation 'merge' and the reviewers that answered, for the one folder
   where most was found: its files come back ranked.
3. Report in plain text: the licence; what each reviewer found, with file and line of the gravest;
   which files to begin with. Say which sub-agents gave no answer, and why.
"""


async def supervise(root: Path, model: BaseChatModel | None = None) -> list[BaseMessage]:
    """Have *root* reviewed and return the whole conversation; the report is its last message.

    Args:
        root: The tree, an absolute path without links.
        model: The model in charge, None for the scripted one.
    """
    reviewing, locating = [*reviewers(root), *troublemakers()], locators(root)
    toolkit = ParallelToolkit(
        [*reviewing, *locating],
        max_concurrent=MAX_CONCURRENT,
        timeout=TIMEOUT,
        task_timeout=TASK_TIMEOUT,
        merge_fn=rank,
    )
    names = [agent.name for agent in reviewing], [agent.name for agent in locating]
    supervisor = create_agent(
        model or scripted_supervisor(*names),
        toolkit.get_tools(),
        system_prompt=_PROMPT.format(reviewers=", ".join(names[0]), locators=", ".join(names[1])),
        name="supervisor",
    )

    state = await supervisor.ainvoke({"messages": [HumanMessage(_request(root))]})
    messages: list[BaseMessage] = state["messages"]
    return messages


def _request(root: Path) -> str:
    folders = ", ".join(f"{part} ({count} files)" for part, count in parts(root).items())
    return f"Review the Python tree {root.name}. Its folders: {folders}."
