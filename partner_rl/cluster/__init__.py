"""Ray as everything else sees it: start, pending calls, metrics and the object store."""
