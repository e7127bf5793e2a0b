"""The parsed command line: `modules.initialize` parses the real arguments into this object before it is read."""

from __future__ import annotations

from modules import cmd_args

parser = cmd_args.parser
cmd_opts = parser.parse_args([])


def parse(argv: list[str]) -> None:
    """Replace the values of `cmd_opts`, in place, by those of `argv`; unknown arguments are left to their owners."""
    parsed, _ = parser.parse_known_args(argv)
    vars(cmd_opts).update(vars(parsed))
    cmd_opts.webui_is_non_local = bool(cmd_opts.share or cmd_opts.listen or cmd_opts.server_name)
    cmd_opts.disable_extension_access = cmd_opts.webui_is_non_local and not cmd_opts.enable_insecure_extension_access
