# The verbs. `make demo` shows the cluster running; `make test` proves it.

GO      ?= go
PACKAGES = slapd ldap-utils haproxy swaks libnet-ssleay-perl curl isync fetchmail msmtp python3 \
           dovecot-imapd dovecot-pop3d dovecot-lmtpd dovecot-sieve dovecot-managesieved \
           postgresql nginx libnginx-mod-mail
PEERS    = nginx libnginx-mod-mail dovecot-imapd dovecot-pop3d dovecot-lmtpd dovecot-submissiond perdition haproxy
FUZZTIME ?= 30s
BIN      = bin

.PHONY: build demo test check bench bench-directory bench-peers fuzz soak packages clean

build: ## build the daemons and the admin's tool into bin/
	$(GO) build -o $(BIN)/ ./cmd/...

demo: build ## start a cluster, send mail through it, print what went where; DIR=… keeps it, ONCE=1 ends it
	@$(BIN)/switchyard demo $(if $(DIR),--dir "$(DIR)") $(if $(ONCE),--once)

test: packages ## every test, real daemons and real mail programs included
	$(GO) test -timeout 15m ./...

check: ## what every commit passes: format, vet, staticcheck, the short tests under the race detector
	@test -z "$$(gofmt -l .)" || { gofmt -l .; echo "run gofmt -w on these files"; exit 1; }
	$(GO) vet ./...
	$(GO) tool staticcheck ./...
	$(GO) test -short -race -timeout 10m ./...

bench: build ## sessions, CPU per login and deliveries per second, through a proxy and directly
	$(GO) test -run '^$$' -bench . -benchtime 1x -timeout 20m ./e2e

bench-directory: ## lookups per second and p99 from 1, 8 and 64 callers: cached, LDAP, TCPAuth with a million accounts
	$(GO) test -run '^$$' -bench SideBySide ./lookup/cache
	$(GO) test -run '^$$' -bench Directory -benchtime 1x -timeout 10m ./lookup/cache
	$(GO) test -run '^$$' -bench Directory -benchtime 1x -timeout 10m ./lookup/ldap
	$(GO) test -run '^$$' -bench . -benchtime 2s -timeout 10m ./cmd/tcpauthd

bench-peers: build ## proxyd beside nginx, Dovecot, Perdition and HAProxy; PEERSFLAGS=-quick for two minutes
	@$(MAKE) --no-print-directory packages PACKAGES="$(PEERS)"
	$(GO) run ./bench/peers $(PEERSFLAGS)

fuzz: ## each fuzz target for FUZZTIME
	@for pkg in $$($(GO) list ./...); do \
	  for target in $$($(GO) test -list '^Fuzz' $$pkg | grep '^Fuzz'); do \
	    echo "$$pkg $$target"; $(GO) test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) $$pkg || exit 1; \
	  done; \
	done

soak: ## the mirror's simulation, 20,000 seeds
	$(GO) test ./backend/mirror/core -run 'Simulation$$' -seeds 20000 -timeout 60m

packages: ## the Debian packages that the tests run; installs what is missing when root
	@missing=""; for p in $(PACKAGES); do dpkg-query -W -f '$${Status}' $$p 2>/dev/null | grep -q 'ok installed' || missing="$$missing $$p"; done; \
	if [ -z "$$missing" ]; then exit 0; fi; \
	if [ "$$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then \
	  echo "The tests run real mail programs, and these are missing. Install them with:"; \
	  echo "  sudo apt-get install$$missing"; exit 1; \
	fi; \
	echo "installing$$missing"; \
	printf '#!/bin/sh\nexit 101\n' > /tmp/switchyard-policy-rc.d && chmod 755 /tmp/switchyard-policy-rc.d; \
	hold=""; if [ ! -e /usr/sbin/policy-rc.d ]; then cp -p /tmp/switchyard-policy-rc.d /usr/sbin/policy-rc.d; hold=yes; fi; \
	export DEBIAN_FRONTEND=noninteractive; \
	{ apt-get install -y -qq --no-install-recommends $$missing || { apt-get update -qq && apt-get install -y -qq --no-install-recommends $$missing; }; } >/tmp/switchyard-apt.log 2>&1; \
	status=$$?; if [ -n "$$hold" ]; then rm -f /usr/sbin/policy-rc.d; fi; rm -f /tmp/switchyard-policy-rc.d; \
	[ $$status = 0 ] || tail -n 20 /tmp/switchyard-apt.log; exit $$status

clean: ## remove what was built
	rm -rf $(BIN)
