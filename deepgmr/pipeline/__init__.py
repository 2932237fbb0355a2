"""What `register` is, a step a room, in order."""
