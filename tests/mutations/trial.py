"""One trial: the tests of a mutation on its sources, up to the first that fails by an assertion on a value."""

import importlib
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

CAUGHT, CRASHED, SURVIVED = "caught", "CRASHED", "SURVIVED"
# A row that was written wrongly, whatever a test may say of it elsewhere.
_MALFORMED = (NameError, AttributeError, ImportError, SyntaxError)
_CRASHES = 3  # After so many tests without an assertion no other is waited for.
_QUICK = "not full and not gpu and not cpp"
# Plugins may be imported before pytest is.
_OPTIONS = ["-q", "-p", "no:cacheprovider", "-W", "ignore::pytest.PytestAssertRewriteWarning", "-m", _QUICK]


class Recorder:
    """A pytest plugin that keeps why the first test failed, by the exception itself."""

    def __init__(self, module: str) -> None:
        self.module, self.here = module, Path.cwd().resolve()
        self.caught: dict[str, str] | None = None
        self.crashes: list[dict[str, str]] = []
        self.malformed = False
        self.passed = 0

    def pytest_sessionstart(self, session: pytest.Session) -> None:
        """Import what was mutated, before a test does it in a function of its own."""
        try:
            importlib.import_module(self.module)
        except BaseException as error:  # noqa: BLE001  # Whatever a mutated module raises.
            self._crash(session, f"import {self.module}", error, malformed=True)

    @pytest.hookimpl(wrapper=True)
    def pytest_make_collect_report(self, collector: pytest.Collector) -> pytest.CollectReport:
        """A test file that cannot be collected is no test that failed."""
        report: pytest.CollectReport = yield
        if report.failed:
            error = report.call.excinfo.value if report.call and report.call.excinfo else Exception(report.longreprtext)
            self._crash(collector.session, collector.nodeid, error, malformed=True)
        return report

    def pytest_runtest_makereport(self, item: pytest.Item, call: pytest.CallInfo[None]) -> None:
        """Stop at the first assertion on a value."""
        if call.excinfo is None:
            self.passed += call.when == "call"
        elif call.when == "call" and _is_on_a_value(call.excinfo, self.here):
            self.caught = _row(item.nodeid, call.excinfo.value)
            item.session.shouldstop = CAUGHT
        elif not call.excinfo.errisinstance((pytest.skip.Exception, pytest.xfail.Exception)):
            self._crash(item.session, item.nodeid, call.excinfo.value, isinstance(call.excinfo.value, _MALFORMED))

    def _crash(self, session: pytest.Session, test: str, error: BaseException, malformed: bool) -> None:
        self.crashes.append(_row(test, error))
        self.malformed |= malformed
        if malformed or len(self.crashes) == _CRASHES:
            session.shouldstop = CRASHED

    def outcome(self) -> dict[str, str]:
        """The verdict, the test, and the type and first line of what it raised."""
        if self.caught and not self.malformed:
            return {"verdict": CAUGHT} | self.caught
        if self.crashes:
            return {"verdict": CRASHED} | self.crashes[-1]
        if not self.passed:
            return {"verdict": CRASHED, "test": "-", "why": "no test ran"}
        return {"verdict": SURVIVED, "test": "-", "why": "-"}


def _row(test: str, error: BaseException) -> dict[str, str]:
    said = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return {"test": test, "why": f"{type(error).__name__}: {said}"}


def _is_on_a_value(excinfo: pytest.ExceptionInfo[BaseException], here: Path) -> bool:
    """Whether a test's own assertion failed: not one of the product's, and no traceback of a process it started."""
    if not excinfo.errisinstance((AssertionError, pytest.fail.Exception)):
        return False
    files = [Path(entry.path).resolve() for entry in excinfo.traceback]
    roots = [file.relative_to(here).parts[0] for file in files if file.is_relative_to(here)]
    return roots[-1] == "tests" and "Traceback (most recent call last)" not in str(excinfo.value)


def run(copy: Path, module: str, tests: Sequence[str], outcome: Path) -> None:
    """Run tests of a copy, the module that was mutated imported first, and write the outcome into a file.

    For a process of its own that has imported libraries, and nothing of the project but what starts it.
    """
    os.chdir(copy)
    paths = [str(copy), str(copy / "toolchain"), str(copy / "export")]
    sys.path[:0], os.environ["PYTHONPATH"] = paths, os.pathsep.join(paths)
    for name in [name for name in sys.modules if name.partition(".")[0] == "tests"]:
        del sys.modules[name]
    with open(os.devnull, "w") as nothing:
        os.dup2(nothing.fileno(), 1)
        os.dup2(nothing.fileno(), 2)
    recorder = Recorder(module)
    pytest.main([*_OPTIONS, *tests], plugins=[recorder])
    outcome.write_text(json.dumps(recorder.outcome()), encoding="utf-8")
