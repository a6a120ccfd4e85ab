"""How a run goes, room by room; setup.py comes first, and is the only way in from a command line.

    options      argv, and what a checkpoint adds -> one frozen Options
    run          a run's folder: its files, its checkpoints, how it stops, continues and ends
    training     one step, the loop around it, what a checkpoint keeps of it
    evaluation   clean and attacked scores of any model
    records      results image by image, rows of scores made from them
    report       recorded runs side by side
    verify       can attacks on this checkpoint be trusted?
"""
