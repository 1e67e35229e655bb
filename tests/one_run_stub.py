"""Stands in for `benchmarks.gpu.items` in `test_one_run`: every way in which a step can end, without torch, in no time.

What it did is in a journal of its own before it tells of it: a summary that says more is not true.
"""

import hashlib
import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

SETTINGS = json.loads(Path(sys.argv[1]).read_text())
SCRATCH = Path(SETTINGS["scratch"])
FASTEST, SLOWER, EPOCHS, EVALUATIONS = "captured+compiled", "captured", 20, 6

FOUND = {"operations": {"flops_per_image": 1e9}, "ceilings": {"matrix_tflops": 1.0}}


def journal(event: str, **more: Any) -> None:
    with open(os.environ["ONE_RUN_JOURNAL"], "a", encoding="utf-8") as file:
        file.write(json.dumps({"event": event, **more}) + "\n")


def say(event: str, **more: Any) -> None:
    sys.stdout.write(json.dumps({"event": event, **more}) + "\n")
    sys.stdout.flush()


def speed(variant: str, batch: str) -> dict[str, Any]:
    rates = {"eager": 100.0, SLOWER: 200.0, FASTEST: 400.0, "compiled": 9e9}
    losses = [4.0, 3.5] if variant != "compiled" else [4.0, 3.0]  # Fast, and wrong.
    return {"images_per_s": rates[variant], "losses": losses, "batch_size": int(batch)}


def learn(variant: str, epochs: str) -> dict[str, Any]:
    """The fastest variant breaks on its way; the next one goes on with the same epochs."""
    run = SCRATCH / "runs" / "one"
    run.mkdir(parents=True, exist_ok=True)
    log = run / "metrics.jsonl"
    done = len(log.read_text().splitlines()) if log.exists() else 0
    assert not done or epochs == str(EPOCHS)
    say("tell", found={"variant": variant, "batch_size": 1024, "epochs": EPOCHS})
    for number in range(done, EVALUATIONS):
        evaluation = {"epoch": number + 1, "knn": 0.1 * number}
        with open(log, "a", encoding="utf-8") as file:
            file.write(json.dumps(evaluation) + "\n")
        journal("evaluation", **evaluation)
        say("tell", found={"evaluation": evaluation})
        time.sleep(0.15)
        if variant == FASTEST and number == 2:
            os._exit(1)
    return {"result": {"state": "finished"}}


def encoder(number: str) -> dict[str, Any]:
    folder = SCRATCH / "encoders" / number
    folder.mkdir(parents=True)
    whole = os.urandom(3000)
    for part in range(2):
        (folder / f"part{part}").write_bytes(whole[1500 * part : 1500 * part + 1500])
    found = {"step": int(number), "from": "a checkpoint", "bytes": 3000, "sha256": hashlib.sha256(whole).hexdigest()}
    journal("encoder", **found)
    return found | {"parts": ["part0", "part1"], "folder": str(folder)}


def taken(step: str) -> tuple[str, dict[str, Any]]:
    name, *arguments = step.split(":")
    time.sleep(0.03)
    if step == "captured:simclr":
        time.sleep(600)  # Hangs.
    if step == "against_cpu:sgd":
        os.kill(os.getpid(), signal.SIGSEGV)
    if step in ("kernels:captured", os.environ.get("ONE_RUN_FAILS")) or os.environ.get("ONE_RUN_FAILS") == name:
        return "failed", {"told": ["ValueError: no kernel"]}
    if step == os.environ.get("ONE_RUN_SPOILS"):
        return "passed", {"nothing": "of what is looked for"}
    if name == "speed":
        return "passed", speed(*arguments)
    if name in FOUND:
        return "passed", FOUND[name]
    if name == "learn":
        return "passed", learn(arguments[0], arguments[3])
    return "passed", encoder(*arguments) if name == "encoder" else {"found": step}


def end_with_the_parent(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.05)
    os._exit(1)


if __name__ == "__main__":
    threading.Thread(target=end_with_the_parent, args=(os.getppid(),), daemon=True).start()
    for step in sys.argv[2:]:
        say("begin", step=step)
        state, found = taken(step)
        journal("end", step=step, state=state)
        say("end", state=state, found=found)
