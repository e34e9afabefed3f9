"""Container logs: CRI text files, written by monitors, read by everyone.

::

    format.py   what a record looks like: stamp, pack, parse (standard library only)
    writer.py   LogWriter: chunks of output → records, rotation, disk-full marker (standard library only)
    files.py    the chain 0.log.N … 0.log as one, oldest first; the last lines; a moment in time by bisection
    reader.py   read_lines and follow: what ``wharf logs`` prints
    index.py    LogView: lines by number for a screen, whatever the size

Nothing is imported here: the monitor of every container imports :mod:`core.logs.writer` and must stay small.
"""
