"""Commands on a trained model."""
