"""Checkpoints that a killed run goes on from, bit for bit.

No random state is kept: data order and views are functions of (seed, epoch, index), so weights, optimizer,
step and the verdict's memory are everything.
"""

import errno
import os
import shutil
from pathlib import Path
from typing import Any

import torch

from byolt.run import command_to_go_on
from byolt_export.errors import ByoltError, InputError
from byolt_export.files import replacing

FORMAT = 2
KEYS = {"format", "step", "result_keys", "images", "method", "optimizer", "watch"}


def save_checkpoint(folder: Path, state: dict[str, Any], *, keep: int) -> None:
    """Write ``last.pt`` and a numbered copy, atomically; older numbered ones beyond ``keep`` go.

    Raises:
        ByoltError: The disk is full or cannot be written; what was saved before is untouched.
    """
    assert state.keys() == KEYS - {"format"}
    last = folder / "last.pt"
    try:
        with replacing(last) as beside:
            with open(beside, "wb") as file:
                torch.save({"format": FORMAT, **state}, file)
                file.flush()
                os.fsync(file.fileno())  # A power cut leaves the old checkpoint or the new one.
            _keep_as(beside, folder / f"step-{state['step']:08d}.pt")
    except (OSError, RuntimeError) as error:  # torch reports a full disk as a RuntimeError of its zip writer.
        cause = _of_the_system(error)
        is_full = cause is None or cause.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        mend = "make room" if is_full else "see that the folder can be written"
        before = f"the one before it is whole: {mend} and go on with {command_to_go_on(folder.parent)}"
        raise ByoltError(
            f"checkpoint of step {state['step']} could not be written to {folder} "
            f"({cause.strerror if cause else 'it was cut short'}); "
            f"{before if last.exists() else f'{mend} and give the command again'}"
        ) from error
    for old in sorted(folder.glob("step-*.pt"))[:-keep]:
        old.unlink()


def _keep_as(written: Path, numbered: Path) -> None:
    """A second name for a written file; a copy where the file system has no links (FAT, some network mounts)."""
    numbered.unlink(missing_ok=True)
    try:
        os.link(written, numbered)
    except OSError:
        with replacing(numbered) as beside:
            shutil.copyfile(written, beside)


def load_checkpoint(folder: Path) -> dict[str, Any]:
    """The last checkpoint of a run's folder, on the CPU.

    Raises:
        InputError: There is none, or it is damaged, or of another format.
    """
    path = folder / "last.pt"
    if not path.exists():
        raise InputError(
            f"{path} not found: {folder.parent} has no checkpoint to go on from; remove it and start again"
        )
    try:
        # weights_only: a checkpoint is data, never code.
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises half a dozen kinds for a damaged file.
        others = sorted(p.name for p in folder.glob("step-*.pt"))
        hint = f"; copy {others[-1]} over it" if others else ""
        raise InputError(f"checkpoint {path} is damaged or cut off{hint}") from error
    if state.get("format") != FORMAT or state.keys() != KEYS:
        raise InputError(f"checkpoint {path} has format {state.get('format')}, this byolt reads format {FORMAT}")
    return state


def refuse_other_recipe(state: dict[str, Any], keys: dict[str, Any], images: str, folder: Path) -> None:
    """Go on only with the recipe and the images that the run was started with.

    Raises:
        InputError: Names each result key that differs, with both values.
    """
    then, now = state["result_keys"], keys
    differ = [
        f"{key}: {then.get(key, 'absent')} then, {now.get(key, 'absent')} now"
        for key in sorted(then.keys() | now.keys())
        if then.get(key) != now.get(key)
    ]
    if state["images"] != images:
        differ.append("the images: other files, other content or another order than the run was started with")
    if differ:
        raise InputError(f"{folder} was learned with other settings and cannot go on with these: " + "; ".join(differ))


def _of_the_system(error: BaseException | None) -> OSError | None:
    """The system's fault below torch's, whose zip writer tells it in words of its own."""
    while error is not None and not (isinstance(error, OSError) and error.strerror):
        error = error.__cause__ or error.__context__
    return error if isinstance(error, OSError) else None
