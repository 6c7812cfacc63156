"""Features of a face, from videos and from tables that other programs wrote."""
