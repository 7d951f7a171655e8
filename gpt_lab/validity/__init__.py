"""What withholds a verdict, known beforehand or seen afterwards."""
