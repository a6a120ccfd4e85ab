"""--report: recorded runs side by side, as tables, curves and sheets of pictures. Nothing is attacked here."""
