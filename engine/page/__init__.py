"""report.html: a report as one self-contained page, which loads nothing from outside.

    write.py    content -> page, within its size        markup.py   HTML whose texts are escaped
    answer.py   the first table    classes.py    tables.py    chart.py    pictures.py    runs.py: the sections
    page.html, page.css, page.js   the frame, the style, and the script for sorting, values and choices
"""
