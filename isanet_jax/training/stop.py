"""Requests to stop: signals that become a save, and Ctrl-C while the compiler works."""

import signal
import threading
from collections.abc import Callable

import jax

from isanet_jax.runtime import stop_signals
from isanet_jax.streams import say_at_once


class StopRequest:
    """Context that turns SIGTERM, SIGINT and SIGHUP into a request: `signal_name` is then set.

    A second signal ends the program at once, and so does the first while there is nothing to save.
    SIGHUP that is ignored (nohup) stays so.

    Attributes:
        signal_name: of the signal that this process has got.
        is_agreed: whether every process knows that one of them is to stop.
        has_steps: whether steps have been made that saving would keep.
    """

    signal_name: str | None = None
    is_agreed = False
    has_steps = False

    @property
    def reason(self) -> str | None:
        """Why to stop after this step; of several processes, the same step for all."""
        if jax.process_count() == 1:
            return self.signal_name
        return (self.signal_name or "another process's signal") if self.is_agreed else None

    def __enter__(self):
        self._previous = {s: signal.signal(s, self._receive) for s in stop_signals()}
        return self

    def __exit__(self, *exception):
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _receive(self, number, frame):
        # Several processes stop together, in the first step that all of them make.
        if self.signal_name or not (self.has_steps or jax.process_count() > 1):
            raise KeyboardInterrupt
        self.signal_name = signal.Signals(number).name
        say_at_once(f"\n{self.signal_name}: saving after this step ...")


def interruptibly(function: Callable):
    """What the function returns; meanwhile signals are heard, which compilers would hold up.

    A signal that raises leaves the function running: the program must end.
    """
    done, outcome = threading.Event(), {}

    def run():
        try:
            outcome["value"] = function()
        except BaseException as error:
            outcome["error"] = error
        done.set()

    threading.Thread(target=run, daemon=True).start()
    while not done.wait(0.2):
        pass
    if "error" in outcome:
        raise outcome["error"]
    return outcome["value"]
