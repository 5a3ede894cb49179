"""Memory set aside for weights that are still to come."""

from moiety.engine.limits import Memory
from moiety.engine.room import Expected, Room


def test_arrays_lie_in_the_room_as_long_as_it_lasts_and_outlive_it() -> None:
    room = Room(8 * 100)
    one, two, more = room.words((5, 3)), room.words((7,)), room.words((200,))
    assert [array.ctypes.data % 64 for array in (one, two, more)] == [0, 0, 0]
    assert two.ctypes.data - one.ctypes.data == 8 * 16  # the next line
    one[:], two[:], more[:] = 1, 2, 3
    room.close()
    room.close()
    for value, array in enumerate((one, two, more), 1):
        assert (array == value).all()


def test_what_nobody_took_goes_back() -> None:
    room = Room(8 * 10_000)
    taken = room.words((500,))
    taken[:] = 5
    rest = room.words((9000,))
    rest[:] = 7
    room._taken = 512  # as if the rest had been touched and not taken
    room.close()
    assert (taken == 5).all()
    assert (rest[512:] == 0).all()


def test_the_account_of_what_is_expected() -> None:
    memory = Memory(1000)
    expected = Expected(memory)
    expected.expect(900, "room")
    assert memory.taken == 900
    expected.expect(2000, "room")  # in place of the former, and too much
    assert memory.taken == 0
    expected.expect(800, "room")
    with expected.placing(400, "weights") as place:
        assert memory.taken == 400
        assert place((4,)).shape == (4,)
    expected.expect(100, "room")
    expected.close()
    expected.close()
    assert memory.taken == 0
