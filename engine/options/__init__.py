"""From argv and a checkpoint's options to one complete, frozen Options. FLAGS describes every flag.

    flags.py, attack_flags.py, training_flags.py   FLAGS, one row a flag
    declare.py   the type of a row, conditions for an effect     types.py   values
    parser.py   argv -> Call     resolve.py   Call -> Options     rules.py   errors
"""
from engine.options.attack_flags import PROTOCOLS
from engine.options.declare import ABOUT, EXPORT, PREDICT, REPORT, TEST, TRAIN, VERIFY, WITHOUT_DATA
from engine.options.flags import FLAGS
from engine.options.parser import Call, as_flags
from engine.options.resolve import Options, adopted, as_text, read_call, resolve, take_over

__all__ = ["ABOUT", "EXPORT", "FLAGS", "PREDICT", "PROTOCOLS", "REPORT", "TEST", "TRAIN", "VERIFY", "WITHOUT_DATA",
           "Call", "Options", "adopted", "as_flags", "as_text", "read_call", "resolve", "take_over"]
