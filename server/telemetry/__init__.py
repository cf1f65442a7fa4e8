"""Telemetry: numbers, spans and log events that are rebuilt from closed lists before they leave."""
