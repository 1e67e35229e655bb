"""The one live line of an engine's build; one plain line per build where there is no terminal."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.live import Live
from rich.text import Text


@contextmanager
def build_line() -> Iterator[Callable[[str, float], bool]]:
    """A function that shows the step and the share done on stderr, and never stops the build."""
    console = Console(stderr=True)
    if not console.is_terminal:
        console.print("building engines; on a Jetson this takes minutes", highlight=False)
        yield lambda step, share: True
        return
    with Live(console=console, refresh_per_second=4, transient=True) as live:

        def show(step: str, share: float) -> bool:
            live.update(Text(f"building  {share:4.0%}  {step}", no_wrap=True, overflow="ellipsis"))
            return True

        yield show
