"""Everything that is written: checked before it is computed, whole or not at all, marked with what it is.

`outputs` checks what a command is going to write, `atomic` writes files and folders, `artefact` marks folders with
their kind, `manifest` notes checksums. Nothing outside of this package opens a file to write it, but to append to it.
"""
