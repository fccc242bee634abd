"""reasoning-gym's tasks for slimrl: a writer of prompt files and the reward `reasoning_gym`."""
