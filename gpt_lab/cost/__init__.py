"""What a config costs before it is trained: parameters, FLOPs, memory; and the sizes at which two cost the same."""
