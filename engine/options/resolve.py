"""From a Call, a checkpoint's options and an options file to complete, frozen Options."""
from dataclasses import asdict, field, make_dataclass, replace
from pathlib import Path

from engine.options import rules
from engine.options.attack_flags import PROTOCOLS
from engine.options.declare import ABOUT, EXPORT, PREDICT, REPORT, TRAIN, VERIFY
from engine.options.flags import FLAGS
from engine.options.parser import Call, format_value, parse
from engine.options.types import find_base_optimizer
from utils.errors import UserError
from utils.literals import read_fact
from utils.user_code import is_code

DEFAULT_EPS = {"linf": (2 / 255, 4 / 255, 8 / 255), "l2": (0.5, 1.0, 2.0)}
SINGLE_EPS = {"linf": 4 / 255, "l2": 0.5}  # of a training, --verify and predict.py
OF_DATASET = ("crop_size", "val_batch_size")  # the data set has their defaults, as usual_crop_size and so on
COMPLETED = ("output_stride", "eps", "lr", "train_eps", *OF_DATASET)  # defaults that depend on other flags
UNSAVED = ((PREDICT,), (EXPORT,), (ABOUT,))  # the modes of flags that no run has
HEADER, END = "------------ Options -------------", "-------------- End ----------------"

# A field for each flag, the mode, and the names of the flags that this call gave.
Options = make_dataclass("Options", [(name, object) for name in FLAGS] + [
    ("mode", str), ("given", frozenset[str], field(default=frozenset()))], frozen=True, namespace={
    "__doc__": "The complete options of a call; they can't be changed.",
    "to_dict": lambda self: {name: list(value) if isinstance(value, tuple) else value for name, value in
                             sorted(asdict(self).items()) if name in FLAGS and FLAGS[name].modes not in UNSAVED}})


def read_call(argv=None, entry: str = "main.py") -> Call:
    """Return the Call of argv, with the options of its --options file.

    Reports every error that no checkpoint can change: an invalid flag with exit code 2, contradictions as UserError.
    """
    call = _expand_protocol(parse(argv, entry))
    if call.given.get("options"):
        rules.refuse_useless(call)
        if call.given.get("continue_training"):
            raise UserError("--options starts a run again, --continue_training continues one: give only one of them")
        call = Call(call.entry, call.mode, {**_read_file(call), **call.given})
    rules.check_call(call, Options(**_complete(_draft_values(call))))
    if call.mode == TRAIN and not call.given.get("continue_training") and not call.given.get("ckpt"):
        resolve(call)  # no checkpoint has a say
    return call


def resolve(call: Call, saved: dict | None = None, *, ckpt: str | None = None) -> Options:
    """Return the complete options: given, else saved, else default values. Raises UserError for contradictions.

    saved: the result of take_over() for a checkpoint's options; ckpt: the path of that checkpoint.
    """
    values = _draft_values(call, saved)
    values["ckpt"] = ckpt or values["ckpt"]
    for name, flag in FLAGS.items() if call.mode == TRAIN else ():
        if name not in call.given and values[name] != flag.default and flag.unmet(Options(**values)):
            values[name] = flag.default  # saved, but without effect here, for example with another --optimizer
    options = Options(**_complete(values))
    if call.mode not in (REPORT, ABOUT):
        rules.check(options)
    return options


def take_over(call: Call, saved, *, source: str) -> dict:
    """Return the options in a checkpoint that describe its run, validated as if they had been typed.

    Raises UserError for an invalid one, unless this call gives it: a checkpoint may come from a stranger. Leaves out
    names that are not flags, and flags of a single call.
    """
    if not isinstance(saved, dict):
        raise UserError(f"{source}: 'options' is not a dict")
    kept = {}
    for name, flag in FLAGS.items():
        if name in saved and flag.scope in ("run", "test"):
            try:
                kept[name] = flag.check(saved[name])
            except ValueError as error:
                if name not in call.given:
                    raise UserError(f"{source}: invalid value for option {name} ({error}): give --{name}") from None
    if is_code(kept.get("model")) and "model" not in call.given:  # a stranger's file must not choose what is run
        raise UserError(f"{source} is of the network {kept['model']}, a function in a file: if you trust that file "
                        f"give --model {kept['model']} (docs/python.md#checkpoints)")
    return kept


def adopted(call: Call, saved: dict) -> dict:
    """Return the saved options that this call uses, as it doesn't give them."""
    left = {name for name, flag in FLAGS.items() if flag.scope == "test"} if call.mode != TRAIN else set()
    left |= {"data_root"} if call.given.get("download") else set()  # a checkpoint must not choose where to write
    left |= _find_completed(saved)
    return {name: value for name, value in saved.items() if name not in call.given and name not in left}


def as_text(options: Options) -> str:
    """Return the text of opts.txt, as SAM_AT writes it: lines `name: value` between HEADER and END."""
    lines = [f"{name}: {format_value(value)}" for name, value in options.to_dict().items() if value is not None]
    return "\n".join([HEADER, *lines, END]) + "\n"


def _draft_values(call: Call, saved: dict | None = None) -> dict:
    """Return every option's value; defaults that depend on other flags are still None."""
    defaults = {name: flag.default for name, flag in FLAGS.items()}
    return {**defaults, **adopted(call, saved or {}), **call.given, "mode": call.mode, "given": frozenset(call.given)}


def _complete(values: dict) -> dict:
    """Return the values, completed with defaults that depend on other flags."""
    options = Options(**values)
    adam = find_base_optimizer(options.optimizer, options.base_optimizer) != "sgd"
    return {**values,
            "test_only": options.mode not in (TRAIN, REPORT, ABOUT),
            "output_stride": values["output_stride"] or find_output_stride(options.model),
            "eps": values["eps"] or (
                (SINGLE_EPS[options.attack_norm],) if options.mode in (VERIFY, PREDICT)
                else DEFAULT_EPS[options.attack_norm]),
            **{name: values[name] or read_fact(options.dataset, f"usual_{name}") for name in OF_DATASET},
            "lr": (5e-4 if adam else 0.01) if values["lr"] is None else values["lr"],
            "train_eps": SINGLE_EPS[options.norm] if values["train_eps"] is None else values["train_eps"]}


def find_output_stride(model: str) -> int | None:
    """Return a network's default; None for one of the user's own."""
    return None if is_code(model) else 4 if "hrnet" in model else 16


def _find_completed(saved: dict) -> set[str]:
    """Return the saved options that only complete other ones: beside other flags they are to be completed anew."""
    values = {**{name: flag.default for name, flag in FLAGS.items()}, **saved, "mode": TRAIN}
    fresh = _complete({**values, **dict.fromkeys(COMPLETED)})
    return {name for name in COMPLETED if saved.get(name) == fresh[name]}


def _expand_protocol(call: Call) -> Call:
    """Return the call with the flags that its --protocol stands for; raise UserError if it gives one of them itself."""
    name = call.given.get("protocol")
    if name is None or call.mode not in FLAGS["protocol"].modes:
        return call
    flags = parse(PROTOCOLS[name].split(), call.entry).given
    if given := sorted(flags.keys() & call.given.keys()):
        raise UserError(f"--{', --'.join(given)}: --protocol {name} is {PROTOCOLS[name]}: leave out one of them "
                        "(docs/attacks.md#protocols)")
    return replace(call, given={**call.given, **flags})


def _read_file(call: Call) -> dict:
    """Return the options in the file of --options that this call doesn't give.

    Takes the first block of the file; a continued run adds more, and an option changed there must be given.
    """
    path = Path(call.given["options"])
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--options {path} can't be read ({getattr(error, 'strerror', None) or 'not UTF-8'}): name the "
                        "opts.txt of a run") from None
    first, *later = [_parse_block(part, path) for part in text.split(HEADER)[1:]] or [None]
    if first is None:
        raise UserError(f"--options {path} doesn't hold options: name the opts.txt of a run")
    for block in later:
        changed = [name for name, flag in FLAGS.items() if flag.scope in ("run", "test")
                   and block.get(name) != first.get(name) and name not in call.given]
        if changed:
            raise UserError(f"--options {path}: the run was continued with another --{', --'.join(changed)}, so no "
                            "single command repeats it: give the value you want")
    view, left = Options(**{**_draft_values(call), **first, **call.given}), {*call.given, *_find_completed(first)}
    if not first.get("continue_training"):  # else a default may be what the checkpoint's option was changed to
        left |= {name for name, value in first.items() if value == FLAGS[name].default}
    return {name: value for name, value in first.items() if name not in left and FLAGS[name].scope != "once"
            and TRAIN in FLAGS[name].modes and not FLAGS[name].unmet(view)}


def _parse_block(text: str, path: Path) -> dict:
    """Return the options between HEADER and END, parsed as if they had been typed."""
    values = {}
    for line in text.partition(END)[0].strip().splitlines():
        name, separator, value = line.partition(": ")
        if not separator or name not in FLAGS or name in values:
            raise UserError(f"--options {path}: {line[:80]!r} is not a line of options: name the opts.txt of a run")
        flag = FLAGS[name]
        try:
            values[name] = tuple(map(flag.read, value.split(" "))) if flag.many else flag.read(value)
        except ValueError as error:
            raise UserError(f"--options {path}: --{name}: {error}") from None
    return values
