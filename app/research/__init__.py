"""From scans to windows to models: where reading and preprocessing meet training."""
