"""
Initialization of a model, chosen by `MODEL.FOCAL.INIT`.

"by_name" is for comparisons. By default all weights are drawn one after the other from one
generator. If two models differ in one layer, all layers built after it then differ too, and so do
the batches, which use the same generator.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from detectron2.config import CfgNode
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from ..checks import check_choice
from ..random_state import generators_kept

INITS = ("stock", "by_name")
"""Supported values of `MODEL.FOCAL.INIT`."""


def build_initialized(cfg: CfgNode, build: Callable[[CfgNode], nn.Module]) -> nn.Module:
    """
    Build the model of a config, initialized as `MODEL.FOCAL.INIT` specifies.

        stock:    build(cfg) and nothing else
        by_name:  value = draw(distribution of the module, seed = hash(SEED, name))

    With "by_name", operations in place with numbers that followed the random fill of a tensor are
    repeated, including a constant fill. Other tensors do not change. Copies of a tensor stay
    copies of it. The generators of PyTorch, NumPy and Python keep their state.

    Args:
        cfg: with `MODEL.FOCAL.INIT` and `SEED`.
        build: builds the model, such as Detectron2's `build_model`.

    Raises:
        ValueError: `MODEL.FOCAL.INIT` is not supported, or requires a `SEED` that is not set.
    """
    init = check_choice("MODEL.FOCAL.INIT", cfg.MODEL.FOCAL.INIT, INITS)
    if init == "stock":
        return build(cfg)
    if cfg.SEED < 0:
        raise ValueError(f"MODEL.FOCAL.INIT by_name requires a SEED >= 0, got {cfg.SEED}")
    with generators_kept(cfg.MODEL.DEVICE), RandomFills() as fills:
        model = build(cfg)
    draw_by_name(model, fills, seed=cfg.SEED)
    return model


@torch.no_grad()
def draw_by_name(model: nn.Module, fills: RandomFills, *, seed: int) -> None:
    """
    Draw every random tensor of ``model`` again, from ``seed`` and its name.

    A tensor with two names, or a copy of another one, uses the first name.
    """
    first_name: dict[object, str] = {}
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        fill = fills.of(tensor)
        if fill is not None:
            first = first_name.setdefault(fill.origin, name)
            tensor.copy_(fill.draw(tensor, _generator(seed, first)))


@dataclass(frozen=True)
class Fill:
    """
    Record of how a tensor received its values.

    Attributes:
        calls: (operation, arguments, keywords): a random fill, then operations in place.
        origin: identity of the fill, shared by tensors that are copies of each other.
    """

    calls: tuple[tuple[Any, tuple[Any, ...], dict[str, Any]], ...]
    origin: object

    def draw(self, like: Tensor, generator: torch.Generator) -> Tensor:
        """Repeat the fill on the CPU, in the shape and type of ``like``, from ``generator``."""
        values = torch.empty(like.shape, dtype=like.dtype)
        for operation, args, kwargs in self.calls:
            given = {"generator": generator} if _is_random(operation) else {}
            operation(values, *args, **{**kwargs, **given})
        return values


class RandomFills(TorchDispatchMode):
    """
    Context that records the random fill of every tensor.

    It follows operations in place with numbers, copies, and moves to another device.

    `trunc_normal_` counts as one fill, because newer versions of PyTorch draw repeatedly until all
    values are inside its bounds.
    """

    def __init__(self) -> None:
        super().__init__()
        # The tensor is kept so that its address, the key, is not reused.
        self._fills: dict[int, tuple[Tensor, Fill]] = {}

    def __enter__(self) -> RandomFills:
        self._fill_truncated = nn.init._no_grad_trunc_normal_
        nn.init._no_grad_trunc_normal_ = self._remember_truncated
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        nn.init._no_grad_trunc_normal_ = self._fill_truncated
        super().__exit__(*error)

    def _remember_truncated(self, tensor: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        self._fill_truncated(tensor, *args, **kwargs)
        if _is_whole(tensor):
            self._set(tensor, Fill(((nn.init.trunc_normal_, args, kwargs),), origin=object()))
        return tensor

    def of(self, tensor: Tensor) -> Fill | None:
        """Return the fill of a tensor, or None if there is none or the tensor was overwritten."""
        _, fill = self._fills.get(_address(tensor), (None, None))
        return fill if fill is not None and _is_whole(tensor) else None

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if func in COPIES:
            self._set(result, self.of(args[0]))
        else:
            for tensor in _written_tensors(func, args, kwargs):
                in_place = bool(args) and tensor is args[0]
                self._set(tensor, self._after(func, args, kwargs) if in_place else None)
        return result

    def _after(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Fill | None:
        """Return the fill of the first argument after an operation in place."""
        tensor, *others = args
        if not _is_whole(tensor):
            return None
        if func is torch.ops.aten.copy_.default:
            return self.of(others[0]) if others[0].shape == tensor.shape else None
        if any(isinstance(x, Tensor) for x in (*others, *kwargs.values())):
            return None
        call = (func, tuple(others), kwargs)
        if _is_random(func):
            return Fill((call,), origin=object())
        before = self.of(tensor)
        return before and replace(before, calls=(*before.calls, call))

    def _set(self, tensor: Tensor, fill: Fill | None) -> None:
        if tensor.numel() == 0:
            return
        if fill is None:
            self._fills.pop(_address(tensor), None)
        else:
            self._fills[_address(tensor)] = (tensor.detach(), fill)


COPIES = {torch.ops.aten._to_copy.default, torch.ops.aten.clone.default}
"""Operations that return a copy: to another device or type, or for a deep copy of a module."""


def _written_tensors(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Iterator[Tensor]:
    for index, argument in enumerate(func._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            value = kwargs.get(argument.name) if argument.kwarg_only else args[index]
            yield from (x for x in _as_list(value) if isinstance(x, Tensor))


def _as_list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _is_random(func: Any) -> bool:
    if func is nn.init.trunc_normal_:
        return True
    return any(argument.name == "generator" for argument in func._schema.arguments)


def _is_whole(tensor: Tensor) -> bool:
    """Return True if the tensor is not a part of a larger tensor."""
    return tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()


def _address(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _generator(seed: int, name: str) -> torch.Generator:
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    # The CPU generator uses 32 bits of its seed.
    return torch.Generator().manual_seed(int.from_bytes(digest[:4], "big"))
