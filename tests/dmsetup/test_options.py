import pytest

from dmspec.dmsetup.options import UsageError, atoi, parse


def test_options_stand_anywhere_and_may_be_cut_short() -> None:
    options = parse("dmsetup", ["create", "-r", "a", "--tab", "0 8 zero", "--uuid=U", "-j5", "-m", "7", "--", "-x"])
    assert options.arguments == ["create", "a", "-x"]
    assert (options["table"], options["uuid"], options.number("major"), options.number("minor")) == \
        ("0 8 zero", "U", 5, 7)
    assert "readonly" in options
    assert "force" not in options


def test_short_options_together() -> None:
    options = parse("dmsetup", ["-cfoname", "info", "-"])
    assert options.arguments == ["info", "-"]
    assert (options["options"], "columns" in options, "force" in options) == ("name", True, True)


@pytest.mark.parametrize(("words", "said"), [
    (["--nonsense"], "dmsetup: unrecognized option '--nonsense'"),
    (["--nonsense=x"], "dmsetup: unrecognized option '--nonsense'"),
    (["-x"], "dmsetup: invalid option -- 'x'"),
    (["-u"], "dmsetup: option requires an argument -- 'u'"),
    (["--table"], "dmsetup: option '--table' requires an argument"),
    (["--force=1"], "dmsetup: option '--force' doesn't allow an argument"),
    (["--add"], "dmsetup: option '--add' is ambiguous; possibilities: '--addnodeonresume' '--addnodeoncreate'"),
    (["--manglename", "x"], "Unknown name mangling mode."),
    (["--mode", "9"], "Invalid argument for --mode: 9. "),
    (["--readahead", "-2"], "Negative read ahead value (-2) is not understood."),
])
def test_what_is_wrong_is_said_as_getopt_says_it(words: list[str], said: str) -> None:
    with pytest.raises(UsageError) as error:
        parse("dmsetup", words)
    assert str(error.value) == said


@pytest.mark.parametrize(("text", "number"), [("7", 7), (" -3x", -3), ("x", 0), ("", 0), ("4294967296", 0),
                                              ("2147483648", -(1 << 31))])
def test_numbers_are_those_of_c(text: str, number: int) -> None:
    assert atoi(text) == number
