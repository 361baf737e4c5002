"""LangChain: translate, call, translate back. Time, limits and cancellation are the core's."""
