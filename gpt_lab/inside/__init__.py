"""What a trained model does inside: attention maps, norms of recurrent states."""
