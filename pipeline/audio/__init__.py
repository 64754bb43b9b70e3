"""Read and write audio files."""
