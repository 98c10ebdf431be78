"""Config that the trainer of a run makes from its command line."""

from focal_plugin import get_cfg
from focal_plugin.engine.command_line import argument_parser


def as_trained(run):
    """Return the config of a run."""
    args = argument_parser().parse_args(["--config-file", run.config_file, *run.opts])
    cfg = get_cfg()
    cfg.merge_from_file(args.config_file)
    cfg.merge_from_list(args.opts)
    return cfg
