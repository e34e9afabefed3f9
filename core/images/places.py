"""Names inside a layer's folder; a module of its own, so that the unpack server need not load the database's."""

DIFF = "diff"  # the files
ASIDE = "aside"  # while it is unpacked: what later entries of the archive have replaced
IMPLIED = "implied"  # until they are dressed: directories that the archive left out, separated by NUL
