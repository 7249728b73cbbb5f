"""`exequatur policy`: check, test, try, explain and format policy; read a server's tools into a registry.

Rules: the verbs' words stand here, their work in `policy_*.py` beside it, which are imported when they run.
"""

from __future__ import annotations

import typer

app = typer.Typer(no_args_is_help=True)
