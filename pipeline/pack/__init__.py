"""Write token ids and audio to Arrow."""
