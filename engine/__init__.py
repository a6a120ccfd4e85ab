"""How a run goes, room by room; setup.py comes first, and is the only way in from a command line.

    options      argv, and what a checkpoint adds -> one frozen Options      run          a run's folder, checkpoints, end
    training     one step, the loop around it                                evaluation   clean and attacked scores
    records      results image by image, rows of scores                      report       recorded runs side by side
    verify       can attacks on this checkpoint be trusted?
"""
