import pytest

from focal_plugin.compare.runs.result import (
    Result,
    read_average_precision,
    read_iteration_s,
    read_metrics,
    read_peak_gpu_memory_mib,
)


def result(arm="FL", ap=20.0, **more):
    averages = {"AP": ap, "AP50": 40.0, "AP75": 18.0, "APs": 10.0, "APm": 30.0, "APl": None}
    fields = {
        "seed": 1,
        "ap": averages,
        "ap_per_class": {"disc": 30.0, "plus": 10.0},
        "iterations": 500,
        "iteration_s": 0.2,
        "peak_memory_mib": 900.0,
        "config_hash": "f",
    }
    return Result(arm=arm, **{**fields, **more})


def write_metrics(folder, *lines):
    (folder / "metrics.json").write_text("".join(line + "\n" for line in lines))


def test_the_last_evaluation_counts_and_nan_is_none(tmp_path):
    write_metrics(
        tmp_path,
        '{"iteration": 19, "total_loss": 1.0, "time": 0.3}',
        '{"iteration": 39, "bbox/AP": 5.0}',
        '{"iteration": 59, "total_loss": 0.5, "time": 0.1}',
        '{"iteration": 59, "bbox/AP": 7.0, "bbox/APl": NaN, "bbox/AP-disc": 9.0}',
    )
    metrics = read_metrics(tmp_path).lines
    averages, per_class = read_average_precision(metrics, iterations=60)
    assert (averages["AP"], averages["APl"], per_class) == (7.0, None, {"disc": 9.0})
    assert read_iteration_s(metrics) == pytest.approx(0.2)


def test_each_of_several_test_sets_has_its_own_averages(tmp_path):
    write_metrics(
        tmp_path,
        '{"iteration": 59, "bbox/AP": 7.0, "bbox/AP-disc": 9.0, "a/bbox/AP": 7.0, '
        '"a/bbox/AP-disc": 9.0, "b/c/bbox/AP": 3.0, "b/c/bbox/APl": NaN, "b/c/bbox/AP-disc": 2.0}',
    )
    metrics = read_metrics(tmp_path).lines
    for test_set, ap, of_disc in ((None, 7.0, 9.0), ("a", 7.0, 9.0), ("b/c", 3.0, 2.0)):
        averages, per_class = read_average_precision(metrics, 60, test_set)
        assert (averages["AP"], averages["APl"], per_class) == (ap, None, {"disc": of_disc})
    with pytest.raises(ValueError, match="no evaluation of c after"):
        read_average_precision(metrics, 60, "c")


def test_a_truncated_line_is_skipped_and_a_resumed_part_counts_once(tmp_path):
    write_metrics(
        tmp_path,
        '{"iteration": 19, "total_loss": 1.0}',
        '{"iteration": 39, "total_loss": 0.9}',
        '{"iteration": 39, "total_loss": 0.8}',
        '{"iteration": 59, "total_lo',
    )
    assert [line["total_loss"] for line in read_metrics(tmp_path).lines] == [1.0, 0.8]
    assert read_metrics(tmp_path).damaged == (4,)


def test_a_run_that_was_not_evaluated_is_an_error(tmp_path):
    write_metrics(tmp_path, '{"iteration": 19, "total_loss": 1.0}')
    with pytest.raises(ValueError, match="no evaluation"):
        read_average_precision(read_metrics(tmp_path).lines, iterations=20)


@pytest.mark.parametrize("iteration", [0, 39, 58])
def test_an_evaluation_before_the_end_is_no_result(tmp_path, iteration):
    write_metrics(tmp_path, f'{{"iteration": {iteration}, "bbox/AP": 5.0}}', '{"iteration": 59}')
    with pytest.raises(ValueError, match="no evaluation after iteration 59"):
        read_average_precision(read_metrics(tmp_path).lines, iterations=60)


@pytest.mark.parametrize("iteration", [59, 60])  # those of Detectron2 0.6 and of its main branch
def test_an_evaluation_after_the_last_iteration_is_the_result(tmp_path, iteration):
    write_metrics(tmp_path, '{"iteration": 39, "bbox/AP": 5.0}')
    with (tmp_path / "metrics.json").open("a") as stream:
        stream.write(f'{{"iteration": {iteration}, "bbox/AP": 7.0}}\n')
    averages, _ = read_average_precision(read_metrics(tmp_path).lines, iterations=60)
    assert averages["AP"] == 7.0


@pytest.mark.parametrize(
    "line",
    [
        *("[]", "7", "null", '"text"', "{}", "[" * 100_000, '{"total_loss": 1.0}', "\0\1\2"),
        *('{"iteration": true}', '{"iteration": 1.5}', '{"iteration": "7"}', '{"iteration": -1}'),
        *('{"iteration": 7, "time": "x"}', '{"iteration": 7, "time": null}', '{"iteration": [7]}'),
        *('{"iteration": 7, "time": 1' + 400 * "0" + "}", '{"iteration": 1' + 400 * "0" + "}"),
    ],
)
def test_a_line_that_is_no_measurement_is_counted_as_damaged(tmp_path, line):
    write_metrics(tmp_path, '{"iteration": 5, "time": 0.1}', line, '{"iteration": 9}')
    found = read_metrics(tmp_path)
    assert [entry["iteration"] for entry in found.lines] == [5, 9]
    assert found.damaged == (2,)


def test_a_cut_last_line_is_damage_only_once_the_run_is_done(tmp_path):
    (tmp_path / "metrics.json").write_text('{"iteration": 5}\n{"iteration": 9, "ti')
    assert read_metrics(tmp_path).damaged == ()
    assert read_metrics(tmp_path, done=True).damaged == (2,)


def test_a_folder_without_metrics_has_none(tmp_path):
    assert read_metrics(tmp_path) == ([], ())


def test_gpu_memory_is_the_largest_of_the_log(tmp_path):
    assert read_peak_gpu_memory_mib(tmp_path) is None
    (tmp_path / "log.txt").write_text("lr: 0.1  max_mem: 120M\nlr: 0.1  max_mem: 340M\n")
    assert read_peak_gpu_memory_mib(tmp_path) == 340
    (tmp_path / "log.txt").write_text("lr: 0.1  max_mem: 0M\n")  # CPU run on a GPU machine
    assert read_peak_gpu_memory_mib(tmp_path) is None


def test_a_result_is_read_back_as_it_was_written(tmp_path):
    assert Result.read(tmp_path) is None
    result().write(tmp_path)
    assert Result.read(tmp_path) == result()
    assert [file.name for file in tmp_path.iterdir()] == ["result.json"]
