"""--report: tables, curves and pictures that compare recorded runs. Nothing is attacked here."""
