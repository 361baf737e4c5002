"""Run the demo: first the sub-agents as plain tools, then the same ones in parallel."""

import argparse
import asyncio
import io
import shutil
import sys
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path

import langchain_core
from langchain.chat_models import init_chat_model
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import BaseMessage

from agentos_parallel import save_report
from agentos_parallel.demo.agents import RAISES, reviewers, troublemakers
from agentos_parallel.demo.outcomes import calls
from agentos_parallel.demo.plain import run_plain
from agentos_parallel.demo.report import ASCII, BLOCKS, table, timeline
from agentos_parallel.demo.source import sources
from agentos_parallel.demo.supervisor import supervise


def main(argv: Sequence[str] | None = None) -> int:
    """Review a tree and print the contrast, the report, the tasks and their timeline.

    Args:
        argv: The command's arguments, default those of the process.

    Returns:
        The exit status: 0, or 2 (by `SystemExit`) for a wrong argument.
    """
    root, model = _arguments(argv)
    marks = _prepare_output()
    # Counting the lines also parses every file: neither contestant pays for that.
    lines = [source.text.count("\n") for source in sources(root)]
    print(f"{root.name}: {len(lines)} files, {sum(lines):,} lines")

    print("\nThe sub-agents as plain tools of create_agent:")
    _contrast(root)
    print("\nThe same sub-agents through ParallelToolkit:\n")
    messages = asyncio.run(supervise(root, model))
    _show(messages, marks)
    _save(messages, Path(tempfile.gettempdir(), "agentos_parallel-demo.html"))

    return 0


def _contrast(root: Path) -> None:
    agents = [*reviewers(root), *troublemakers()]
    harmless = [agent for agent in agents if agent.name != RAISES]
    # Each in a loop of its own, which waits for the threads that a failed run leaves behind.
    print(f"- {asyncio.run(run_plain(agents, '.')).verdict}")
    print(f"- without the one that raises: {asyncio.run(run_plain(harmless, '.')).verdict}")


def _show(messages: Sequence[BaseMessage], marks: tuple[str, str]) -> None:
    outcomes = calls(messages)
    width = min(100, shutil.get_terminal_size((100, 24)).columns)
    drawn = timeline(outcomes, width=width, marks=marks)
    print(messages[-1].text, table(outcomes), drawn, sep="\n\n")


def _save(messages: Sequence[BaseMessage], path: Path) -> None:
    """Write the call with the most tasks as a page, if there was any."""
    artifacts = [getattr(message, "artifact", None) or {} for message in messages]
    largest = max(artifacts, key=lambda run: run.get("total", 0), default={})
    if largest:
        save_report(largest, path)
        print(f"\nThe call with the most tasks as a page: {path}")


def _arguments(argv: Sequence[str] | None) -> tuple[Path, BaseChatModel | None]:
    parser = argparse.ArgumentParser("python -m agentos_parallel.demo", description=__doc__)
    parser.add_argument(
        "path",
        nargs="?",
        type=Path,
        default=Path(langchain_core.__path__[0]),
        help="the source tree to review (default: the installed langchain_core)",
    )
    parser.add_argument(
        "--model",
        help="put a real model in charge of the parallel run: anything init_chat_model takes,"
        " such as openai:gpt-5-mini (default: a scripted one, which needs no key)",
    )
    options = parser.parse_args(argv)

    root = options.path.resolve()
    if not any(True for _ in sources(root)):
        parser.error(f"no Python files in {options.path}")
    try:
        return root, init_chat_model(options.model) if options.model else None
    except (ImportError, ValueError) as error:
        parser.error(f"--model {options.model}: {error}")


def _prepare_output() -> tuple[str, str]:
    """Keep foreign text and warnings from spoiling the output; return marks that it can show."""
    warnings.simplefilter("ignore", SyntaxWarning)  # of the files under review, when parsed
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
    try:
        "".join(BLOCKS).encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        return ASCII

    return BLOCKS


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit("stopped")
