"""A party's threads."""

import weakref

from moiety.engine.party import _forget


class Large:
    """Stands for the values of a run."""


def test_an_ended_session_lets_go_of_its_run_before_any_search_for_garbage() -> None:
    seen: list[weakref.ref[Large]] = []

    def run() -> None:
        large = Large()
        seen.append(weakref.ref(large))
        raise KeyError("inner")

    try:
        try:
            run()
        except KeyError:
            raise ValueError("outer") from None
    except ValueError as error:
        assert seen[0]() is not None
        _forget(error)
        assert seen[0]() is None
