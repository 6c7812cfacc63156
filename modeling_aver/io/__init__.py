"""Files and networks: atomic writes, media decoding, archives, downloads, console output."""
