"""Small stand-ins for the packages of the targets, which record what they are given."""

from pathlib import Path
from types import SimpleNamespace


class FakeWandb:
    """The part of wandb that an export uses; it writes a folder for each run, as offline mode."""

    errors = SimpleNamespace(Error=type("Error", (Exception,), {}))

    def __init__(self):
        self.runs = []

    def Settings(self, **options):
        return options

    def Table(self, columns, data):
        assert all(len(row) == len(columns) for row in data)
        return (columns, data)

    def init(self, **options):
        run = SimpleNamespace(options=options, lines=[], summary={}, finished=False)
        run.log = lambda line, step=None: run.lines.append((step, line))
        run.finish = lambda: setattr(run, "finished", True)
        self.runs.append(run)
        Path(options["dir"], "wandb", f"offline-run-1-{options['id']}").mkdir(parents=True)
        return run


class FakeMlflow:
    """The part of mlflow that an export uses, with a store for each address."""

    exceptions = SimpleNamespace(MlflowException=type("MlflowException", (Exception,), {}))

    class entities:  # noqa: N801
        Param = staticmethod(lambda key, value: (key, value))
        Metric = staticmethod(lambda key, value, timestamp, step: (key, value, step))

    def __init__(self):
        self.stores = {}

    def MlflowClient(self, tracking_uri):
        return self.stores.setdefault(tracking_uri, FakeMlflowClient())


class FakeMlflowClient:
    def __init__(self):
        self.experiments, self.runs = {}, []

    def get_experiment_by_name(self, name):
        found = self.experiments.get(name)
        return found and SimpleNamespace(experiment_id=found[0])

    def create_experiment(self, name, artifact_location):
        self.experiments[name] = (f"e{len(self.experiments)}", artifact_location)
        return self.experiments[name][0]

    def search_runs(self, experiments, filter_string, max_results):
        return [
            SimpleNamespace(info=SimpleNamespace(run_id=i))
            for i, run in enumerate(self.runs)
            if run["experiment"] in experiments
            and f"'{run['tags']['focal_plugin.id']}'" in filter_string
        ]

    def create_run(self, experiment, run_name, tags):
        run = {"experiment": experiment, "name": run_name, "tags": tags, "texts": {}}
        self.runs.append({**run, "params": [], "metrics": [], "ended": 0})
        return SimpleNamespace(info=SimpleNamespace(run_id=len(self.runs) - 1))

    def log_batch(self, run_id, params=(), metrics=()):
        assert len(params) <= 100
        assert len(metrics) <= 1000
        run = self.runs[int(run_id)]
        run["params"] += params
        run["metrics"] += metrics

    def log_text(self, run_id, text, name):
        self.runs[int(run_id)]["texts"][name] = text

    def set_terminated(self, run_id):
        self.runs[int(run_id)]["ended"] += 1


class FakeTrackio:
    """The part of trackio that an export uses."""

    def __init__(self):
        self.runs = {}

    def Api(self):
        def runs(project):
            names = [name for of_project, name in self.runs if of_project == project]
            if not names:
                raise ValueError(f"Project {project!r} does not exist")
            return [SimpleNamespace(name=name) for name in names]

        return SimpleNamespace(runs=runs)

    def Table(self, dataframe):
        return dataframe

    def init(self, project, name, resume="never", **options):
        assert resume == "allow" or (project, name) not in self.runs
        self.current = self.runs.setdefault((project, name), (options, []))[1]

    def log(self, line, step=None):
        self.current.append((step, line))

    def finish(self):
        self.current = None
