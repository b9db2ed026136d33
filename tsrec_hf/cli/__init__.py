"""The command `tsrec`: parses what is typed, finds its mistakes at once, and only then imports what is needed."""

from .commands import main, run_command


__all__ = ["main", "run_command"]
