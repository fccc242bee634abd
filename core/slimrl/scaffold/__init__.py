"""New plugin distributions: what `slimrl new` writes."""
