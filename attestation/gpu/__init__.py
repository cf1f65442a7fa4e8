"""NVIDIA GPU evidence: device reports, reference manifests and revocation, verified offline."""
