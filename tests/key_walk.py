"""Tools for tests of all keys of a config: other legal values, and a built object in words."""

import functools

import torch
from torch import nn

LEGAL_VALUES = {
    "ALPHA": [0.3],
    "BBOX_REG_LOSS_TYPE": ["smooth_l1", "giou"],
    "CLASSIFIER": ["conv", "cosine"],
    "CONV_DIMS": [[32, 32]],
    "CROWD": ["ignore"],
    "FORMAT": ["RGB"],
    "FUSE_TYPE": ["avg"],
    "LOW_QUALITY": ["clobber"],
    "MATCHED": ["inside"],
    "NORM": [""],
    "BOX_NORMALIZER": ["foreground"],
    "NORMALIZER": ["foreground"],
    "NORM_ORDER": ["relu_norm"],
    "OUT_CHANNELS": [64],
    "PRECISION_RECALL": [True],
    "POOLER_TYPE": ["ROIAlign"],
    "STYLE": ["tensorpack"],
    "TARGET_STD": [[0.1, 0.1, 0.2, 0.2]],
    "TOP_BLOCK": ["p5"],
    "TOP_LEVELS": [1, 2],
    "WIDTHS": [[64, 32, 64, 32]],
}
"""Last name of a key -> some legal values, where :func:`other_value` cannot know one."""


OF_EVERY_MODULE = vars(nn.Module()).keys() - {"_parameters", "_buffers", "_modules"}


def other_value(key, value):
    """Return another legal value of a key; None if there is only a choice between components."""
    name = key.rpartition(".")[2]
    if name in LEGAL_VALUES:
        fitting = [x for x in LEGAL_VALUES[name] if x != value]
        return fitting[0] if fitting else None
    if name == "IOU_LABELS":
        return [*value[:-1], 0]
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1
    if isinstance(value, float):
        return value / 2 + 0.01
    if isinstance(value, list | tuple) and value and not isinstance(value[0], str):
        return type(value)(other_value("", entry) for entry in value)
    return None


def keys_of(cfg, prefix=""):
    for name, value in cfg.items():
        if isinstance(value, dict):
            yield from keys_of(value, f"{prefix}{name}.")
        else:
            yield prefix + name


def read(cfg, key):
    return functools.reduce(lambda node, name: node[name], key.split("."), cfg)


def write(cfg, key, value):
    *nodes, name = key.split(".")
    setattr(functools.reduce(lambda node, part: node[part], nodes, cfg), name, value)


def fingerprint(part, depth=12):
    """Return the description of a built object: its type, tensors, numbers and parts."""
    if isinstance(part, torch.Tensor):
        trained = getattr(part, "requires_grad", False)
        return f"{tuple(part.shape)} {trained} {part.detach().double().abs().sum():.9g}"
    if isinstance(part, dict):
        return {str(key): fingerprint(value, depth) for key, value in part.items()}
    if isinstance(part, set):
        return sorted(map(str, part))
    if isinstance(part, list | tuple):
        return [fingerprint(value, depth) for value in part]
    if isinstance(part, functools.partial):
        return fingerprint([part.func, part.args, part.keywords], depth)
    if hasattr(part, "__qualname__"):
        return part.__qualname__
    if hasattr(part, "__dict__"):
        is_module = isinstance(part, nn.Module)
        own = {k: v for k, v in vars(part).items() if not (is_module and k in OF_EVERY_MODULE)}
        return type(part).__name__, fingerprint(own, depth - 1) if depth else ""
    return str(part)
