"""Parametrization in a single test, for cheap cases where hundreds of tests would be slow."""

import functools
import inspect


def each(names, values):
    """
    Run all values of `pytest.mark.parametrize` in one test.

    The test stops at the first value that fails, and names it. All values share the fixtures, so
    no value may change them.
    """
    names = [name.strip() for name in names.split(",")] if isinstance(names, str) else list(names)
    cases = [dict(zip(names, x if len(names) > 1 else [x], strict=True)) for x in values]
    if not cases:
        raise ValueError(f"at least one value of {', '.join(names)} is required")

    def decorate(test):
        @functools.wraps(test)
        def run_all(**others):
            for case in cases:
                try:
                    test(**others, **case)
                except Exception as error:
                    raise AssertionError(f"{case}: {type(error).__name__}: {error}") from error

        signature = inspect.signature(test)
        left = [x for name, x in signature.parameters.items() if name not in names]
        if len(left) + len(names) != len(signature.parameters):
            raise ValueError(f"{test.__name__} must have the arguments {', '.join(names)}")
        run_all.__signature__ = signature.replace(parameters=left)
        return run_all

    return decorate
