"""Train the members a job asks for: plain training, search, boosting."""
