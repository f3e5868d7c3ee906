"""Advantage estimators, one a file, behind one interface."""
