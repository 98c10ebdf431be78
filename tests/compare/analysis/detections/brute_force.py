"""Matching of detections and objects in plain loops, independent of the package."""


def iou(a, b, *, crowd=False):
    """IoU of two boxes x, y, width, height; with a crowd, the share of ``a`` that it covers."""
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    overlap = max(0, width) * max(0, height)
    return overlap / (a[2] * a[3] if crowd else a[2] * a[3] + b[2] * b[3] - overlap)


def objects_of(truth):
    return [a for a in truth["annotations"] if not a["iscrowd"]]


def matched(truth, detections, threshold=0.5):
    """
    Return the detections that count, highest score first, each with `object` (or None) and `iou`.

    The best free object of the class is taken. A detection in a crowd does not count.
    """
    found, taken = [], set()
    per_group = {}
    for entry in sorted(detections, key=lambda d: -d["score"]):
        group = per_group.setdefault((entry["image_id"], entry["category_id"]), [])
        group.append(entry)
        if len(group) > 100:
            continue
        best, best_iou, in_crowd = None, 0.0, False
        for a in truth["annotations"]:
            if (a["image_id"], a["category_id"]) != (entry["image_id"], entry["category_id"]):
                continue
            value = iou(entry["bbox"], a["bbox"], crowd=a["iscrowd"])
            if a["iscrowd"]:
                in_crowd |= value >= threshold
            elif a["id"] not in taken and value >= threshold and value > best_iou:
                best, best_iou = a, value
        if best is None and in_crowd:
            continue
        if best is not None:
            taken.add(best["id"])
        found.append({**entry, "object": best, "iou": best_iou})
    return found
