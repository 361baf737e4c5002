"""A supervisor reviews a real Python source tree with sub-agents, some of which go wrong.

Run it with `python -m agentos_parallel.demo [PATH] [--model openai:...]`. It needs no key: a
scripted model supplies the words and the tool calls, while the work on the files is real.
"""

from importlib.util import find_spec

if find_spec("langchain") is None:
    raise ImportError("the demo needs LangChain's agents: pip install 'agentos-parallel[agents]'")
