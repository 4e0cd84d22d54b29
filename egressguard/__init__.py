"""EgressGuard: a mail egress appliance for edge routers."""
