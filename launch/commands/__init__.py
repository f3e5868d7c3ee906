"""The commands that a user types, each in a file that is found by typing it; Typer is met here."""
