"""What the actions do, a file for each kind of object. Each gets the workspace, and leaves the work to its jobs."""
