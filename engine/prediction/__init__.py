"""Segment images of any kind, clean and attacked; takes no options.

    inputs.py   files, folders and lists -> images    outputs.py   what is written where    segment.py   batches
"""
