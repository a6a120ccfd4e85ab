"""What a command line becomes, without data, checkpoints or networks."""
from engine.options import read_call, resolve, take_over


def options_of(*argv: str, saved: dict | None = None, entry: str = "main.py"):
    """Return the finished options of a call; `saved` are those in the checkpoint that it continues or tests."""
    call = read_call(list(argv), entry)
    return resolve(call, None if saved is None else take_over(call, saved, source="a.pth"))
