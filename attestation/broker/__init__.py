"""The key broker: CoCo KBS protocol 0.4.0 in, keys sealed to affirmed guests out."""
