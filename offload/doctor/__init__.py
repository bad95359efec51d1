"""Look at every device, and say whether it is there, why, and what to do: `offload doctor`."""
