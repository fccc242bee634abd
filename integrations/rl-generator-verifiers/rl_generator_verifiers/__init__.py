"""verifiers environments for slimrl: a writer of prompt files, the generator `verifiers` and the reward `verifiers`."""
