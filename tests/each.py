"""Many cases in one test, where hundreds of tests would cost more than what they do."""

import functools
import inspect


def each(names, values):
    """
    Same interface as `pytest.mark.parametrize`, but all values make one test, which ends at the
    first that fails and names it. Fixtures are shared by all values, so none of them may change.
    """
    names = [name.strip() for name in names.split(",")] if isinstance(names, str) else list(names)
    cases = [dict(zip(names, x if len(names) > 1 else [x], strict=True)) for x in values]
    if not cases:
        raise ValueError(f"there must be a value of {', '.join(names)}")

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
