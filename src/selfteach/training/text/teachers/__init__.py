"""Teachers whose scores come from elsewhere than weights in this process: a cache on the disk, or a server."""
