"""What `register` is, a step a room, in order: from two clouds to a motion, a confidence and a covariance."""
