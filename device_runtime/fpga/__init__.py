"""FPGAs: what their bitstreams say, and how arguments look in a unit's registers."""
