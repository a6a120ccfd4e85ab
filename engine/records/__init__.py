"""The files of image-by-image results, and rows of scores made from them.

    schema.py   valid lines          store.py   read, append, resume     rows.py   lines -> rows of scores
    naming.py   names of attacks     summary.py   results.json and the table on the screen
"""
