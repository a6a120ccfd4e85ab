"""Segment images of any kind, clean and attacked; takes no options.

    inputs.py    files, folders and lists -> images    segment.py   batches of images -> what is made of them
    outputs.py   what is written where                 record.py    the lines of predictions.jsonl
"""
