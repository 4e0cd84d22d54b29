"""The processes of the gateway: each module wires the rooms of one role, and decides nothing."""
