"""Names inside a layer's folder; a module of its own, so that the unpack server need not load the database's."""

DIFF = "diff"  # the files
ASIDE = "aside"  # what later entries of the archive have replaced; stays where the archive cannot be rebuilt without
INDEX = "index.zst"  # what it holds (core.images.index)
SPLIT = "split.zst"  # its archive without the files' content (core.images.split)
IMPLIED = "implied"  # until they are dressed: directories that the archive left out, separated by NUL
