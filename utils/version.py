"""The version of this program, which it writes into its files."""
VERSION = "0.2.0"
