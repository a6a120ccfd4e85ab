"""The only package that sees all the others: options, the run, training, evaluation, reports."""
