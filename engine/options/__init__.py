"""From argv and a checkpoint's options to one complete, frozen Options. FLAGS describes every flag.

    flags.py, training_flags.py   FLAGS, one row a flag      declare.py   the type of a row    types.py   values
    needs.py   conditions for an effect    parser.py   argv -> Call    resolve.py   Call -> Options    rules.py   errors
"""
from engine.options.declare import PREDICT, REPORT, TEST, TRAIN, VERIFY
from engine.options.flags import FLAGS, PROTOCOLS
from engine.options.parser import as_flags
from engine.options.resolve import Options, adopted, as_text, read_call, resolve, take_over

__all__ = ["FLAGS", "PREDICT", "PROTOCOLS", "REPORT", "TEST", "TRAIN", "VERIFY", "Options", "adopted", "as_flags",
           "as_text", "read_call", "resolve", "take_over"]
