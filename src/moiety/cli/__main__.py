"""``python -m moiety.cli`` is ``moiety``."""

from moiety.cli import main

main()
