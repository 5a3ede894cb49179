"""Silence of transformers while a model loads: no bars, no advice, and its settings as they were afterwards."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from transformers.utils import logging

ONE_AT_A_TIME = threading.Lock()  # the settings are the process's, so two loads must not interleave their changes


@contextmanager
def quiet() -> Iterator[None]:
    """Errors only, inside the ``with`` block. Blocks of several threads follow one another; they can't be nested."""
    with ONE_AT_A_TIME:
        verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
        logging.set_verbosity_error()
        logging.disable_progress_bar()
        try:
            yield
        finally:
            logging.set_verbosity(verbosity)
            if bars:
                logging.enable_progress_bar()
