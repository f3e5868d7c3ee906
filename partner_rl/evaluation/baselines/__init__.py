"""Other ways of rewriting, one a file, to compare a trained policy with; `registry` knows them all by name."""
