"""Checkpointer with atomic writes, verified reads and a check that the run is the same."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.utils import comm
from torch import Tensor, nn

from ...run_folder import LAST_CHECKPOINT
from .file import CheckpointError, remove_unfinished_checkpoints, write_checkpoint
from .identity import differences, environment_identity
from .last import iteration_of, last_file, newest_whole, set_last_file
from .weights import HEURISTICS, read_weights

__all__ = ["CheckpointError", "Checkpointer"]

logger = logging.getLogger(__name__)

OUR_KEY = "focal_plugin"
"""Key under which a checkpoint stores its run and the state that differs between processes."""

T = TypeVar("T")


class Checkpointer(DetectionCheckpointer):
    """
    Checkpointer with atomic writes and verified reads.

    It has the interface of :class:`detectron2.checkpoint.DetectionCheckpointer`. A checkpoint is
    written completely or not at all, and is verified when read. It never contains a NaN or an
    infinity, and never runs code. A run resumes only from its own checkpoints. Each process
    restores its own buffers (statistics of BatchNorm, running means), including those outside the
    state dict.

    All errors are a :class:`CheckpointError`, except for failed writes, which are an OSError.

    Attributes:
        not_loaded: name of each tensor of the model that no file has set -> the reason.
        loaded_class_names: names of the classes of the file that was loaded last; () without any.

    Args:
        model: the model, wrapped or not.
        save_dir: an existing folder on a file system that all processes share.
        identity: values that define the run, from
            :func:`~focal_plugin.engine.checkpoints.identity.run_identity`. None accepts a
            checkpoint of any run, as an evaluation does.
        allowed_changes: keys of ``identity``, or nodes, that may differ from the checkpoint.
        fall_back: if the last checkpoint is damaged, resume from the newest older intact one.
        trust_pickle: read `.pkl` files from outside the model zoo; they cannot run code either.
        class_names: names of the classes to save, in the order of their indices.
        checkpointables: objects saved besides the model, by name.
    """

    def __init__(
        self,
        model: nn.Module,
        save_dir: str = "",
        *,
        identity: Mapping[str, Any] | None = None,
        allowed_changes: Collection[str] = (),
        fall_back: bool = False,
        trust_pickle: bool = False,
        class_names: Collection[str] = (),
        **checkpointables: Any,
    ) -> None:
        super().__init__(model, save_dir, **checkpointables)
        self.identity = identity
        self.allowed_changes = tuple(allowed_changes)
        self.fall_back = fall_back
        self.trust_pickle = trust_pickle
        self.class_names = tuple(class_names)
        self.loaded_class_names: tuple[str, ...] = ()
        # Most buffers outside the state dict are constants that the config sets, and the config
        # may be allowed to change. A checkpoint contains only the buffers that training changes.
        in_state = self.model.state_dict()
        self.not_loaded = dict.fromkeys(filter(_is_a_weight, in_state), "no weights were loaded")
        self._initial = {name: x for name, x in self._buffers().items() if name not in in_state}

    def save(self, name: str, **extra: Any) -> None:
        """
        Save a checkpoint. All processes must call this method; the main process writes.

        Raises:
            CheckpointError: the state is not finite, or it could not be loaded again.
            OSError: the write failed, e.g. the disk is full. Earlier checkpoints are intact.
        """
        if not self.save_dir:
            return
        buffers_of_ranks = comm.gather(self._buffers())
        # No collective below: a process must not wait for one whose write has failed.
        if not comm.is_main_process():
            return
        folder = Path(self.save_dir)
        file = folder / f"{name}.pth"
        if file.name != f"{name}.pth":
            raise ValueError(f"a checkpoint name must be a plain file name, got {name!r}")
        remove_unfinished_checkpoints(folder)
        logger.info(f"Saving checkpoint to {file}")
        states = {key: state.state_dict() for key, state in self.checkpointables.items()}
        ours = {
            "identity": dict(self.identity) if self.identity is not None else None,
            "environment": self._environment(),
            "buffers": self._different(buffers_of_ranks),
            "class_names": list(self.class_names),
        }
        content = {"model": self.model.state_dict(), **states, **extra, OUR_KEY: ours}
        write_checkpoint(file, content)
        self.tag_last_checkpoint(file.name)

    def load(self, path: str, checkpointables: list[str] | None = None) -> dict[str, Any]:
        """
        Load a checkpoint. Unless ``checkpointables`` is empty, it must belong to this run.

        Raises:
            CheckpointError: as for :meth:`resume_or_load`.
        """
        if not path:
            logger.info("No checkpoint found. Initializing model from scratch")
            return {}
        logger.info(f"Loading from {path} ...")
        file, query = self._local_file(path)
        content = self._read(file, given=path.removesuffix(f"?{query}"))
        if query:
            content[HEURISTICS] = True
        if checkpointables != []:
            self._check_own(file, content)
        return self._restore(file, content, checkpointables)

    def resume_or_load(self, path: str, *, resume: bool = True) -> dict[str, Any]:
        """
        Resume from the last checkpoint, or load ``path``.

        The main process decides for all whether there is a checkpoint to resume from, and which.

        Raises:
            CheckpointError: the file is missing, damaged, not a checkpoint, or belongs to another
                run; or `last_checkpoint` is damaged. No weight has changed.
        """
        if self.save_dir and comm.is_main_process():
            remove_unfinished_checkpoints(Path(self.save_dir))
        if not (resume and _of_main_process(self.has_checkpoint)):
            return self.load(path, checkpointables=[])
        file, content = self._read_last_everywhere()
        self._check_own(file, content)
        iteration = content.get("iteration")
        extra = self._restore(file, content, None)
        restored = ", ".join(["weights", *self.checkpointables])
        logger.info(f"Resumed from {file}, saved after iteration {iteration}; restored: {restored}")
        return extra

    def check_resumable(self) -> None:
        """
        Raise an error if the run cannot resume, as far as known without the model.

        It succeeds if there is no checkpoint, or if the checkpoint is intact and belongs to this
        run. Nothing is written. The model may be empty.

        Raises:
            CheckpointError: the checkpoint is damaged or belongs to another run.
        """

        def check() -> None:
            if self.has_checkpoint():
                file, content = self._read_last()
                if self.identity is not None:
                    self._check_identity(file, content, self.identity)

        _of_main_process(check)

    def check_complete(
        self,
        *,
        remedy: str = "Give the checkpoint of this model as MODEL.WEIGHTS, or "
        "--allow-partial-weights to evaluate it as it is",
    ) -> None:
        """
        Raise an error if a tensor of the model still has its initial value.

        Args:
            remedy: what the user can do.

        Raises:
            CheckpointError: the message lists these tensors, with the reasons.
        """
        if not self.not_loaded:
            return
        weights = list(filter(_is_a_weight, self.model.state_dict()))
        lines = "".join(f"\n  {line}" for line in _by_module(self.not_loaded))
        raise CheckpointError(
            f"{len(self.not_loaded)} of the {len(weights)} tensors of the model were not loaded "
            f"and are random:{lines}\n{remedy}"
        )

    def has_checkpoint(self) -> bool:
        """Return True if `last_checkpoint` exists, whatever its content."""
        return bool(self.save_dir) and (Path(self.save_dir) / LAST_CHECKPOINT).exists()

    def get_checkpoint_file(self) -> str:
        """
        Return the file that `last_checkpoint` names, or "" if there is none.

        Raises:
            CheckpointError: it does not name a file of this folder.
        """
        return str(last_file(Path(self.save_dir))) if self.has_checkpoint() else ""

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Write `last_checkpoint` atomically."""
        set_last_file(Path(self.save_dir), last_filename_basename)

    def _local_file(self, path: str) -> tuple[Path, str]:
        """Return the file, downloaded if required, and the query after "?" in its address."""
        address, _, query = (path, "", "") if Path(path).is_file() else path.partition("?")
        if query not in {"", f"{HEURISTICS}=True"}:
            raise CheckpointError(f"{path}: unknown query ?{query}, expected ?{HEURISTICS}=True")
        remedy = 'give the path of a file, or train from random weights with MODEL.WEIGHTS ""'
        try:
            file = Path(self.path_manager.get_local_path(address))
        except Exception as error:  # each kind of address has errors of its own
            reason = " ".join(str(error).split()) or type(error).__name__
            raise CheckpointError(
                f"MODEL.WEIGHTS {path} cannot be fetched ({reason}): {remedy}"
            ) from error
        if not file.exists():
            raise CheckpointError(f"MODEL.WEIGHTS {path}: file not found; {remedy}")
        return file, query

    def _load_file(self, f: str) -> dict[str, Any]:
        return self._read(Path(f))

    def _read(self, file: Path, given: str = "") -> dict[str, Any]:
        return read_weights(file, given=given or str(file), trust_pickle=self.trust_pickle)

    def _read_last_everywhere(self) -> tuple[Path, dict[str, Any]]:
        """Return the file that the main process chose, with its content as read by each process."""
        content: dict[str, Any] = {}

        def choose() -> str:
            nonlocal content
            file, content = self._read_last()
            return str(file)

        file = Path(_of_main_process(choose))
        problem = ""
        if not comm.is_main_process():
            try:
                content = self._read(file)
            except CheckpointError as error:
                problem = str(error)
        for rank, text in enumerate(comm.all_gather(problem)):
            if text:
                raise CheckpointError(
                    f"process {rank} cannot read the checkpoint from which the main process "
                    f"resumes; OUTPUT_DIR must be a folder that all machines share. {text}"
                )
        return file, content

    def _read_last(self) -> tuple[Path, dict[str, Any]]:
        folder, last = Path(self.save_dir), None
        try:
            last = last_file(folder)
            return last, self._read(last)
        except CheckpointError as error:
            if not self.fall_back:
                hint = "--resume-fallback resumes from the newest older intact checkpoint"
                raise CheckpointError(f"{error}. {hint}") from error
            damage = error
        try:
            file, content = newest_whole(folder, last, self._read)
        except CheckpointError as error:
            raise CheckpointError(f"{damage}; and {error}") from damage
        logger.warning(f"{damage}. Resuming from {file} instead")
        return file, content

    def _check_own(self, file: Path, content: Mapping[str, Any]) -> None:
        """Raise unless this run can resume from the checkpoint; warn if bit-equality is lost."""
        if self.identity is None:
            return
        for key, values in self._check_identity(file, content, self.identity).items():
            logger.warning(f"{key}: {values}; resuming anyway, as allowed")
        stored = _stored(content)
        self._check_fits(file, content, stored["buffers"])
        others = differences(stored["environment"], self._environment(), "then")
        if others:
            listed = "; ".join(f"{key} {values}" for key, values in others.items())
            logger.warning(f"The run resumes, but bit-equality is not guaranteed: {listed}")

    def _check_identity(
        self, file: Path, content: Mapping[str, Any], identity: Mapping[str, Any]
    ) -> dict[str, str]:
        """Return the allowed differences; raise if there are others."""
        iteration_of(file, content)
        stored = _stored(content)
        if stored["identity"] is None:
            raise CheckpointError(
                f"{file} was written by another trainer, which did not record its run. To start "
                "from its weights, pass it as MODEL.WEIGHTS, without --resume"
            )
        changed = differences(stored["identity"], identity)
        refused = [key for key in changed if not self._may_change(key)]
        if refused:
            lines = "".join(f"\n  {key}: {changed[key]}" for key in refused)
            flags = " ".join(f"--allow-config-change '{key}'" for key in refused)
            raise CheckpointError(
                f"{file} belongs to another run:{lines}\nSet another OUTPUT_DIR, or resume anyway "
                f"with {flags}"
            )
        return changed

    def _may_change(self, key: str) -> bool:
        return any(
            key == allowed or key.startswith((f"{allowed}.", f"{allowed}["))
            for allowed in self.allowed_changes
        )

    def _is_own(self, stored: Mapping[str, Any]) -> bool:
        if self.identity is None or stored["identity"] is None:
            return False
        return all(map(self._may_change, differences(stored["identity"], self.identity)))

    def _check_fits(
        self, file: Path, content: Mapping[str, Any], buffers: list[dict[str, Tensor]]
    ) -> None:
        """Raise unless model, buffers and checkpointables match those of the checkpoint."""
        missing = [key for key in self.checkpointables if key not in content]
        if missing:
            raise CheckpointError(f"cannot resume from {file}: {', '.join(missing)} is missing")
        misfits = differences(_shapes(content["model"]), _shapes(self.model.state_dict()))
        ours = _shapes(dict(self.model.named_buffers()))
        for of_rank in buffers:
            stored = _shapes(of_rank)
            misfits |= differences(stored, {name: ours[name] for name in stored if name in ours})
        if misfits:
            listed = "".join(f"\n  {name}: {x}" for name, x in list(misfits.items())[:10])
            raise CheckpointError(
                f"cannot resume from {file}: {len(misfits)} tensors do not match the model:"
                f"{listed}\nTo start from the weights that match, pass it as MODEL.WEIGHTS, "
                "without --resume"
            )

    def _environment(self) -> dict[str, Any]:
        tensor = next(self.model.parameters(), torch.zeros(()))
        return environment_identity(tensor.device)

    def _restore(
        self, file: Path, content: dict[str, Any], checkpointables: list[str] | None
    ) -> dict[str, Any]:
        """Load everything and return the rest of the content."""
        stored = _stored(content)
        self.loaded_class_names = tuple(stored["class_names"])
        content.pop(OUR_KEY, None)
        incompatible = self._load_model(content)
        self._note_what_was_loaded(file, incompatible)
        self._log_incompatible_keys(incompatible)
        if self._is_own(stored):
            self._restore_buffers(stored["buffers"])
        names = self.checkpointables if checkpointables is None else checkpointables
        for key in filter(content.__contains__, names):
            try:
                self.checkpointables[key].load_state_dict(content.pop(key))
            except (KeyError, ValueError) as error:  # an optimizer with other parameter groups
                raise CheckpointError(
                    f"{key} in {file} does not match this run: {error}"
                ) from error
        return content

    def _note_what_was_loaded(self, file: Path, incompatible: Any) -> None:
        weights = list(filter(_is_a_weight, self.model.state_dict()))
        misfits = {
            name: f"{tuple(there)} in the file, {tuple(here)} in the model"
            for name, there, here in incompatible.incorrect_shapes
        }
        missing = dict.fromkeys(incompatible.missing_keys, "not in the file")
        reasons = {**missing, **misfits}
        self.not_loaded = {name: reasons[name] for name in weights if name in reasons}
        if weights and len(self.not_loaded) == len(weights):
            name, reason = next(iter(self.not_loaded.items()))
            raise CheckpointError(
                f"{file} fits no tensor of the model, such as {name} ({reason}): give the weights "
                'of this model as MODEL.WEIGHTS, or "" for random ones'
            )

    def _buffers(self) -> dict[str, Tensor]:
        return {name: buffer.detach().cpu().clone() for name, buffer in self.model.named_buffers()}

    def _different(self, buffers_of_ranks: list[dict[str, Tensor]]) -> list[dict[str, Tensor]]:
        """Return, for each process, the buffers that state dict and config do not determine."""
        first = buffers_of_ranks[0]
        of_first = {
            name: first[name] for name, x in self._initial.items() if not _equal(first[name], x)
        }
        of_others = [
            {name: x for name, x in buffers.items() if not _equal(x, first[name])}
            for buffers in buffers_of_ranks[1:]
        ]
        return [of_first, *of_others]

    @torch.no_grad()
    def _restore_buffers(self, stored: list[dict[str, Tensor]]) -> None:
        rank = comm.get_rank()
        own = stored[rank] if rank < len(stored) else {}
        ours = dict(self.model.named_buffers())
        for name, value in {**stored[0], **own}.items():
            if name in ours and ours[name].shape == value.shape:  # the code may have changed
                ours[name].copy_(value)


def _of_main_process(ask: Callable[[], T]) -> T:
    """Call ``ask`` in the main process only; return its result, or raise its error, in all."""
    answer, problem = None, None
    if comm.is_main_process():
        try:
            answer = ask()
        except CheckpointError as error:
            problem = error
    answer, problem = comm.all_gather((answer, problem))[0]
    if problem is not None:
        raise problem
    return answer


def _stored(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return the stored facts of the run; empty for a checkpoint of another trainer."""
    ours = content.get(OUR_KEY)
    ours = ours if isinstance(ours, dict) else {}
    return {"identity": None, "environment": {}, "buffers": [{}], "class_names": [], **ours}


def _is_a_weight(name: str) -> bool:
    """Return False for the counter of BatchNorm, which old checkpoints lack."""
    return not name.endswith("num_batches_tracked")


def _by_module(tensors: Mapping[str, str]) -> list[str]:
    """Return a line for each module, with the names of its tensors and the first reason."""
    modules: dict[str, list[str]] = {}
    for name in tensors:
        leaf = name.rpartition(".")[2]
        modules.setdefault(name.removesuffix(leaf), []).append(leaf)
    return [
        f"{module}{' and '.join(leaves)}: {tensors[module + leaves[0]]}"
        for module, leaves in modules.items()
    ]


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def _equal(first: Tensor, second: Tensor) -> bool:
    return first.dtype == second.dtype and torch.equal(first, second)
