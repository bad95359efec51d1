"""Process cores: compute units that are processes of this machine."""
