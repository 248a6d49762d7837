"""What the guest prints is understood, and a difference is found wherever there is one; no guest is needed."""

from dmspec.verify.compare import Comparison, error_of, parse
from dmspec.verify.emulate import play
from dmspec.verify.layers import Layer
from dmspec.verify.script import Placed, Script, guest_view
from dmspec.verify.steps import Case, DiskSpec, step

CASE = Case("case", (DiskSpec("pv1", 2048),), (
    step("create", name="vol", table=["0 1024 linear pv1 0"]),
    step("write", target="vol", at=0, size=4096, pattern="A"),
    step("read", target="vol", at=0, size=1024),
    step("fail", disk="pv1"),
    step("write", target="vol", at=0, size=4096, pattern="B"),
))


def compared(edit: dict[str, str], *, spoil: bytes = b"") -> list[str]:
    """Let a perfect guest answer, with some words replaced; say what differs."""
    played = play(CASE)
    script = Script()
    script.add(played)
    [placed] = script.placed
    lines = ["@case 0"]
    for number, seen in enumerate(played.seen):
        lines.append(f"@step {number}")
        if seen.outcome.error:
            lines += ["@failed 1", "dd: error writing '/dev/mapper/vol': Input/output error"]
        lines += ["@view", *seen.view] if edit else ["@as-expected"]
    lines += ["@last", "@as-expected", *(f"@contents {name}" for name in played.contents if name == "pv1"),
              "@contents vol", "@failed 1", "dd: /dev/mapper/vol: Input/output error", "@clean"]
    text = "\n".join(lines)
    for old, new in edit.items():
        text = text.replace(old, new)

    def read(offset: int, length: int) -> bytes:
        return answer(placed, offset, length)

    def answer(placed: Placed, offset: int, length: int) -> bytes:
        where = {at: played.seen[number].outcome.data or b"" for number, at in placed.reads.items()}
        where |= {at: played.contents[name][0] for name, at in placed.contents.items() if name == "pv1"}
        data = where.get(offset, b"")[:length]
        return data.replace(b"A sector 00000001", spoil) if spoil else data

    found = Comparison(placed, parse(text)[0], read).differences()
    return [f"{one.step} {one.what}: {one.kernel} | {one.ours}" for one in found]


def test_equal_sides_do_not_differ() -> None:
    assert compared({}) == []
    assert compared({"no such words": ""}) == []


def test_another_outcome() -> None:
    assert compared({"@failed 1\ndd: error writing '/dev/mapper/vol': Input/output error\n": ""}) == [
        "4 outcome: done | EIO"]
    [first, *_rest] = compared({"@step 1": "@step 1\n@failed 1\ndd: can't open 'x': Permission denied"})
    assert first == "1 outcome: EACCES | done"


def test_another_view_is_told_with_names() -> None:
    [first, *_rest] = compared({"vol: 0 1024 linear 254:200 0": "vol: 0 1024 linear 254:200 8"})
    assert first == "0 table: vol: 0 1024 linear pv1 8 | vol: 0 1024 linear pv1 0"
    assert "1 info: vol::0:0:1:1:L--w | vol::0:0:1:0:L--w" in compared({"vol::0:0:1:0": "vol::0:0:1:1"})


def test_other_contents() -> None:
    [read, disk] = compared({}, spoil=b"A sector 0000000X")
    assert read == "2 what was read, 1 sectors differ, the first is 1: 'A sector 0000000X' | 'A sector 00000001'"
    assert disk.startswith("-1 contents of pv1, 1 sectors differ, the first is 1: ")


def test_a_guest_that_stops_is_a_difference() -> None:
    played = play(CASE)
    script = Script()
    script.add(played)
    report = parse("@case 0\n@step 0\n@as-expected\n@step 1\n")[0]
    [difference] = Comparison(script.placed[0], report, lambda _offset, length: bytes(length)).differences()
    assert (difference.step, difference.kernel) == (1, "blocked: the guest did not come further")


def test_errors_are_found_in_what_tools_say() -> None:
    assert error_of(0, ["anything"]) == ""
    assert error_of(1, ["device-mapper: remove ioctl on vol  failed: Device or resource busy",
                        "Command failed."]) == "EBUSY"
    assert error_of(1, ["Device nix not found", "Command failed."]) == "ENXIO"
    assert error_of(1, ["dd: error writing '/dev/mapper/vol': No space left on device"]) == "ENOSPC"
    assert error_of(3, ["what is this"]) == "exit 3: what is this"


def test_disks_of_many_cases_lie_side_by_side() -> None:
    script = Script()
    for _ in range(3):
        script.add(play(CASE))
    assert [placed.disks["pv1"] for placed in script.placed] == [0, 1 << 20, 2 << 20]
    played = play(Case("case", CASE.disks, (step("look"),)))
    second = Layer(CASE.disks[0], 0, 2048)
    assert "pv1: 0 2048 linear 98:0 0" in played.last
    assert "pv1: 0 2048 linear 98:0 2048" in guest_view(played.last, [second])
