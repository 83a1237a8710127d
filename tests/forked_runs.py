"""Runs in processes of their own that begin with everything imported: real locks and signals."""

import os
import signal
import sys
import traceback
from pathlib import Path
from tempfile import mkdtemp

from amc.train import main


class ForkedRun:
    """The main command with these words, in a folder; what it writes goes to files.

    It is forked off the process of the tests: a new one would import for seconds what is here.
    """

    def __init__(self, where: Path, *words: str) -> None:
        self._said = Path(mkdtemp(dir=where.parent))
        self._status: int | None = None
        self.pid = os.fork()
        if self.pid == 0:
            try:
                os._exit(self._main(where, words))
            finally:
                os._exit(70)  # whatever happens, the tests go on in one process only

    def _main(self, where: Path, words: tuple[str, ...]) -> int:
        os.setsid()
        os.chdir(where)
        for number, name in ((1, "out"), (2, "err")):
            os.dup2(os.open(self._said / name, os.O_WRONLY | os.O_CREAT), number)
        sys.stdout, sys.stderr = (open(number, "w", closefd=False) for number in (1, 2))
        signal.signal(signal.SIGINT, signal.default_int_handler)
        sys.argv = ["amc.train", *words]
        status = 1
        try:
            main()
            status = 0
        except SystemExit as ended:
            if isinstance(ended.code, int):
                status = ended.code
            else:
                print(ended.code, file=sys.stderr)
        except BaseException:
            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        return status

    def poll(self) -> int | None:
        """The exit status, once it has ended."""
        if self._status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self._status = os.waitstatus_to_exitcode(status)
        return self._status

    def wait(self) -> int:
        """The exit status, when it has ended."""
        if self._status is None:
            self._status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self._status

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        self.wait()

    @property
    def err(self) -> str:
        """What it has said to stderr."""
        return (self._said / "err").read_text()
