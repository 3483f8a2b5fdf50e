"""``python -m kd3d.cli`` is ``kd3d``."""

from kd3d.cli.main import main

main()
