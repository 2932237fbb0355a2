"""From shapes and scenes to pairs: protocols, batches and the pool of scans."""
