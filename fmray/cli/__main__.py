"""Answer `python -m fmray.cli`."""

from fmray.cli import main

main()
