"""The ``gsd-*`` commands. This package imports ``gsdata``; ``gsdata`` never imports this one."""
