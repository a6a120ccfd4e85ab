"""Which version of this program wrote a file."""
VERSION = "0.2.0"
