# Every target calls the scripts that also work without make.
SUITE ?= bookworm

.PHONY: check test run lab fresh lock peers bench reference fuzz system

check: ## format, lint, types, import contracts, tests
	scripts/test

test: check

peers: ## unpack the programs that only tests talk to into .peers/
	scripts/peers

run: ## install what is missing and run the gateway
	scripts/run

lab: ## the whole story in network namespaces (root)
	scripts/lab

bench: ## measure beside the real peers (root); the last line of each is JSON
	scripts/test --peers --install-only
	.venv/bin/python -m benchmarks.policy
	.venv/bin/python -m benchmarks.packets
	.venv/bin/python -m benchmarks.relay
	.venv/bin/python -m benchmarks.queue
	.venv/bin/python -m benchmarks.bad_hosts
	.venv/bin/python -m benchmarks.scan
	.venv/bin/python -m benchmarks.mailboxes

reference: ## write what the rule language says of itself: rules/*schema.json, docs/rules.md
	.venv/bin/egressguard schema >rules/schema.json.new && mv rules/schema.json.new rules/schema.json
	.venv/bin/egressguard schema --overlay >rules/schema.json.new && mv rules/schema.json.new rules/overlay.schema.json
	.venv/bin/egressguard schema --expectations >rules/schema.json.new && mv rules/schema.json.new rules/expect.schema.json
	.venv/bin/egressguard schema --markdown >docs/rules.md.new && mv docs/rules.md.new docs/rules.md

system: ## the long versions: 20,000 packets, 200 reloads under a flood, 200 kills of the relay, every change tried on a past day (root)
	EGRESSGUARD_KILLS=200 .venv/bin/python -m pytest -q --timeout=0 -k killed \
		tests/app/test_mailboxes.py tests/mailbox/test_mbox_delivery.py
	EGRESSGUARD_KILLS=200 .venv/bin/python -m pytest -q --timeout=0 tests/app/test_keeper.py
	EGRESSGUARD_POLICIES=1000 EGRESSGUARD_CASES=120000 .venv/bin/python -m pytest -q --timeout=0 \
		tests/policy/test_proof.py tests/policy/space/test_flows.py tests/firewall/test_proof.py tests/firewall/test_simulation.py
	EGRESSGUARD_PACKETS=20000 EGRESSGUARD_RELOADS=200 .venv/bin/python -m pytest -q --timeout=0 \
		tests/firewall/test_differential.py tests/firewall/test_flood.py
	EGRESSGUARD_KILLS=200 .venv/bin/python -m pytest -q -s --timeout=0 tests/system/test_kill_walk.py
	EGRESSGUARD_KILLS=200 .venv/bin/python -m pytest -q --timeout=0 tests/quarantine/test_orders.py -k killed
	EGRESSGUARD_BOMBS=1 .venv/bin/python -m pytest -q --timeout=0 tests/scan/test_archive.py -k bomb
	EGRESSGUARD_READINGS=all .venv/bin/python -m pytest -q --timeout=0 tests/scan/test_octets.py
	EGRESSGUARD_COSTS=1500 .venv/bin/python -m pytest -q -s --timeout=0 tests/scan/test_costs.py
	EGRESSGUARD_MUTATIONS=20000 .venv/bin/python -m pytest -q -s --timeout=0 tests/scan/readers
	EGRESSGUARD_CHANGES=all .venv/bin/python -m pytest -q --timeout=0 \
		tests/relay/test_rejudge.py tests/firewall/test_recording.py
	EGRESSGUARD_KILLS=1 EGRESSGUARD_IMPORTED=50000 .venv/bin/python -m pytest -q -s --timeout=0 tests/mailbox/takeover
	EGRESSGUARD_KILLS=200 EGRESSGUARD_RACE=100000 .venv/bin/python -m pytest -q -s --timeout=0 tests/access/test_race.py
	EGRESSGUARD_LOGINS=10000 .venv/bin/python -m pytest -q --timeout=0 tests/access/test_attack.py
	EGRESSGUARD_READERS=all .venv/bin/python -m pytest -q --timeout=0 \
		tests/peers/test_mail_programs.py tests/peers/test_debian_13.py tests/peers/test_sieve.py
	EGRESSGUARD_COMPARISONS=3000 EGRESSGUARD_REFACTORINGS=500 .venv/bin/python -m pytest -q --timeout=0 tests/policy/difference
	EGRESSGUARD_COMPARISONS=250 .venv/bin/python -m pytest -q --timeout=0 tests/policy/test_index_mail.py
	EGRESSGUARD_QUEUED=1000000 .venv/bin/python -m pytest -q -s --timeout=0 tests/relay/test_long_queue.py

FUZZ ?= 20000
FUZZ_SECONDS ?= 60
fuzz: ## octets for every parser of the wire, FUZZ_SECONDS each; then damaged rules and sessions, FUZZ of each
	.venv/bin/python -m tests.fuzz.run --seconds $(FUZZ_SECONDS)
	EGRESSGUARD_FUZZ=$(FUZZ) .venv/bin/python -m pytest -q --timeout=0 \
		tests/policy/test_rubbish.py tests/policy/test_reference.py tests/smtp/test_session_model.py tests/smtp/test_session_splits.py

fresh: ## prove scripts/run and scripts/test in a minimal Debian: make fresh SUITE=trixie (root)
	scripts/fresh $(SUITE)

lock: ## pin the dependencies anew (needs uv)
	uv lock --upgrade
	uv export --quiet --frozen --no-dev --no-emit-project --no-header -o requirements.lock
	uv export --quiet --frozen --no-emit-project --no-header -o requirements-dev.lock
