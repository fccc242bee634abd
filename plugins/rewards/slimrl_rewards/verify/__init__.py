"""Reading answers as mathematics and telling whether two are equal; the parts of the reward `math_verify`."""
