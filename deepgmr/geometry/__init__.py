"""Points, normals and rigid motions: mathematics without an opinion on registration."""
