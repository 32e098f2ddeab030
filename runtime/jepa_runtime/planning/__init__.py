"""Search for action sequences: CEM and MPPI, energies and costs, action limits, default candidates."""
