"""The main job from nothing: a small data set of our own, an embedded model, fine-tuned and exported."""
