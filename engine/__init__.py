"""The parts of a run. Every command line starts in setup.py.

    options      argv and a checkpoint's options -> one frozen Options
    run          a run's folder and checkpoints; how it stops, continues and ends
    training     one step, the loop around it, what a checkpoint keeps
    evaluation   clean and attacked scores of any model
    records      results of each image, rows of scores made from them
    report       tables, curves and pictures that compare recorded runs
    verify       can attacks on this checkpoint be trusted?
    about        what there is, and in which versions
"""
