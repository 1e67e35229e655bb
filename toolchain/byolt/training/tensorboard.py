"""TensorBoard event files, where the recipe asks for them."""

from pathlib import Path
from typing import Any

from byolt_export.errors import MissingPart


class EventWriter:
    """Writes numbers to event files, or does nothing where it is off."""

    def __init__(self, folder: Path, *, on: bool, start_step: int = 0) -> None:
        """Open an event file in ``folder``; what older ones hold of steps after ``start_step`` no longer counts.

        Raises:
            MissingPart: TensorBoard is asked for and not installed.
        """
        self._writer: Any = None
        if on:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError as error:
                raise MissingPart(
                    'machine.tensorboard: TensorBoard is not installed; pip install "byolt[tensorboard]"'
                ) from error
            self._writer = SummaryWriter(str(folder), purge_step=start_step + 1 if start_step else None)

    def write(self, step: int, metrics: dict[str, Any]) -> None:
        """Write the numbers among ``metrics``."""
        if self._writer is not None:
            for name, value in metrics.items():
                if isinstance(value, int | float):
                    self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Flush and close the file."""
        if self._writer is not None:
            self._writer.close()
