"""
Export of a detector to one file, and its comparison with the detector in PyTorch.

An exported detector takes one image and returns its boxes:

    image    (C, H, W) float32, 0 to 255, resized, with the channels of `INPUT.FORMAT`
    boxes    (D, 4) x0, y0, x1, y1 in pixels of that image
    scores   (D,)
    classes  (D,) int64
"""

from __future__ import annotations

import contextlib
import io
import json
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from detectron2.export import scripting_with_instances
from detectron2.export.torchscript_patch import patch_builtin_len
from detectron2.structures import Boxes, Instances
from torch import Tensor, nn

from .portable_detector import (
    ScriptableRCNN,
    ScriptableRetinaNet,
    TraceableDetector,
    is_two_stage,
)

Detections = tuple[Tensor, Tensor, Tensor]
"""Boxes, scores and classes of one image."""

FACTS_NAME = "focal_plugin.json"
"""Extra file of a TorchScript archive, and key of the metadata of an ONNX file."""

OPSET = 16
"""Version of ONNX's operators, the first with `RoiAlign` as Detectron2 computes it."""

FIELDS = {"pred_boxes": Boxes, "scores": Tensor, "pred_classes": Tensor}
FIELDS_OF_RCNN = {"proposal_boxes": Boxes, "objectness_logits": Tensor}
FIELDS_OF_RCNN |= dict.fromkeys(("pred_masks", "pred_keypoints", "pred_keypoint_heatmaps"), Tensor)


@dataclass(frozen=True)
class Exported:
    """
    Exported detector.

    Attributes:
        content: the bytes of its file.
        detect: runs the detector from these bytes on one image.
    """

    content: bytes
    detect: Callable[[Tensor], Detections]


def trace(model: nn.Module, image: Tensor, facts: dict[str, Any]) -> Exported:
    """
    Trace a detector to TorchScript. It accepts images of every size.

    Args:
        model: detector in evaluation mode.
        image: (C, H, W) float32 example with at least one detection.
        facts: JSON that the file keeps as :data:`FACTS_NAME`.

    Raises:
        ValueError: PyTorch cannot trace the detector.
    """
    with _tracing(), _explained(model, "traced"):
        traced = torch.jit.trace(TraceableDetector(model).eval(), (image,), check_trace=False)
    return _from_torchscript(traced, facts, image.device)


def script(model: nn.Module, facts: dict[str, Any]) -> Exported:
    """
    Script a detector to TorchScript, with its control flow.

    Raises:
        ValueError: TorchScript does not support the code of the detector.
    """
    two_stage = is_two_stage(model)
    adapter = (ScriptableRCNN if two_stage else ScriptableRetinaNet)(model).eval()
    fields = {**FIELDS, **(FIELDS_OF_RCNN if two_stage else {})}
    with torch.no_grad(), warnings.catch_warnings(), _explained(model, "scripted: use --tracing"):
        warnings.simplefilter("ignore", FutureWarning)  # PyTorch would prefer torch.export
        scripted = scripting_with_instances(adapter, fields)
    return _from_torchscript(scripted, facts, next(model.parameters()).device)


def to_onnx(model: nn.Module, image: Tensor, facts: dict[str, Any]) -> Exported:
    """
    Export a detector to ONNX by a trace. It accepts images of every size.

    The arguments are those of :func:`trace`. The model must be on the CPU.

    Raises:
        ImportError: onnx or onnxruntime is not installed.
        ValueError: PyTorch cannot export the detector.
    """
    onnx, runtime = onnx_packages()
    stream = io.BytesIO()
    names = ("boxes", "scores", "classes")
    axes = {"image": {1: "height", 2: "width"}, **{name: {0: "detections"} for name in names}}
    with _tracing(), _explained(model, "exported to ONNX"):
        torch.onnx.export(
            TraceableDetector(model).eval(),
            (image,),
            stream,
            input_names=["image"],
            output_names=[*names],
            dynamic_axes=axes,
            opset_version=OPSET,
            # torch.export cannot pad an image to a size that depends on data, in
            # `ImageList.from_tensors`
            dynamo=False,
        )
    graph = onnx.load_from_string(stream.getvalue())
    graph.metadata_props.add(key=FACTS_NAME, value=json.dumps(facts))
    content = graph.SerializeToString()
    session = runtime.InferenceSession(content, providers=["CPUExecutionProvider"])

    def detect(image: Tensor) -> Detections:
        boxes, scores, classes = session.run(list(names), {"image": image.cpu().numpy()})
        return torch.from_numpy(boxes), torch.from_numpy(scores), torch.from_numpy(classes)

    return Exported(content, detect)


def eager(model: nn.Module, image: Tensor) -> Detections:
    """Return what the detector itself finds on an image, (C, H, W) float32."""
    with torch.no_grad():
        found: Instances = model([{"image": image}])[0]["instances"].to("cpu")
    return found.pred_boxes.tensor, found.scores, found.pred_classes


@contextlib.contextmanager
def _explained(model: nn.Module, how: str) -> Iterator[None]:
    """Replace an error of PyTorch by a sentence that names the detector."""
    try:
        yield
    except (RuntimeError, NotImplementedError, TypeError) as error:
        reason = str(error).strip().partition("\n")[0].rstrip(":")
        raise ValueError(f"{type(model).__name__} cannot be {how} ({reason})") from error


@contextlib.contextmanager
def _tracing() -> Iterator[None]:
    with torch.no_grad(), patch_builtin_len(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a trace warns about every shape, and all are tried after
        yield


def _from_torchscript(
    module: torch.jit.ScriptModule, facts: dict[str, Any], device: torch.device
) -> Exported:
    stream = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # PyTorch would prefer torch.export
        torch.jit.save(module, stream, _extra_files={FACTS_NAME: json.dumps(facts)})
        content = stream.getvalue()
        loaded = torch.jit.load(io.BytesIO(content), map_location=device)

    def detect(image: Tensor) -> Detections:
        with torch.no_grad():
            boxes, scores, classes = loaded(image)
        return boxes.cpu(), scores.cpu(), classes.cpu()

    return Exported(content, detect)


def onnx_packages() -> tuple[Any, Any]:
    """
    Return the modules onnx and onnxruntime.

    Raises:
        ImportError: one is not installed; the message says how to install it.
    """
    try:
        import onnx
        import onnxruntime
    except ImportError as error:
        raise ImportError(
            f"--format onnx requires {error.name}: pip install onnx onnxruntime"
        ) from error
    return onnx, onnxruntime
