# Two commands: `make up` brings a card up, `make test` tests everything.
# `make native` builds the kernel of the fast machine, which cards use from then on.

GO      ?= go
VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo devel)
GOFLAGS := -trimpath
LDFLAGS := -s -w
PREFIX  ?= /usr/local

# program=package: Debian's package that has the program.
UP_NEEDS     := qemu-system-x86_64=qemu-system-x86 ip=iproute2 passt=passt apt-get=apt
NATIVE_NEEDS := gcc=gcc ld=binutils make=make flex=flex bison=bison bc=bc xz=xz-utils perl=perl
# file=package, for packages without a program to look for.
UP_FILES     := /usr/share/keyrings/debian-archive-keyring.gpg=debian-archive-keyring
NATIVE_FILES := /usr/include/stdlib.h=libc6-dev /usr/include/libelf.h=libelf-dev

export CGO_ENABLED ?= 0

.PHONY: all build agents up native test torture man completion install deb clean deps-up deps-native go

all: build

build: go
	@mkdir -p bin
	$(GO) build $(GOFLAGS) -ldflags '$(LDFLAGS) -X main.buildVersion=$(VERSION)' -o bin/toe ./cmd/toe
	$(GO) build $(GOFLAGS) -ldflags '$(LDFLAGS) -X main.buildVersion=$(VERSION)' -o bin/toe-bench ./cmd/toe-bench
	$(GO) build $(GOFLAGS) -ldflags '$(LDFLAGS) -X "main.stamp=toe-agent-version=$(VERSION);"' -o bin/toe-agent ./cmd/toe-agent
	@bin/toe firmware agents --built

# The agents of the other architectures. A card that needs one compiles it, too: this is for an installation.
agents: build
	bin/toe firmware agents

# A healthy card on this machine. A second time changes nothing.
up: deps-up build
	@bin/toe up

# The User-Mode Linux kernel: native speed without KVM. Minutes, once.
native: deps-up deps-native build
	bin/toe firmware build --machine uml

test: build
	./test/run

# 2,000 power losses in the middle of updates. Root, and edition debian for uml in the cache.
torture: build
	bin/toe firmware build --edition debian --machine uml
	TOE_TORTURE_ROUNDS=$${TOE_TORTURE_ROUNDS:-2000} $(GO) test -vet=off ./test/torture -count=1 -v -timeout 24h -run Updates/PowerLoss

# toe-bench(1) is the page of the program, in place of the one of the verb `toe bench`.
man: build
	bin/toe man dist/man
	bin/toe-bench man dist/man

completion: build
	@mkdir -p dist/completion
	for program in toe toe-bench; do \
		bin/$$program completion bash > dist/completion/$$program && \
		bin/$$program completion zsh > dist/completion/_$$program && \
		bin/$$program completion fish > dist/completion/$$program.fish || exit; \
	done

install: build man completion
	install -d $(DESTDIR)$(PREFIX)/bin $(DESTDIR)$(PREFIX)/share/man/man1 $(DESTDIR)$(PREFIX)/lib/systemd/system
	install -d $(DESTDIR)$(PREFIX)/share/bash-completion/completions $(DESTDIR)$(PREFIX)/share/zsh/site-functions
	install -d $(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d
	install -m 0755 bin/toe bin/toe-bench $$(ls bin/toe-agent*) $(DESTDIR)$(PREFIX)/bin/
	install -m 0644 dist/man/*.1 $(DESTDIR)$(PREFIX)/share/man/man1/
	install -m 0644 dist/completion/toe dist/completion/toe-bench $(DESTDIR)$(PREFIX)/share/bash-completion/completions/
	install -m 0644 dist/completion/_toe dist/completion/_toe-bench $(DESTDIR)$(PREFIX)/share/zsh/site-functions/
	install -m 0644 dist/completion/*.fish $(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d/
	sed 's|@bindir@|$(PREFIX)/bin|' packaging/toe@.service > $(DESTDIR)$(PREFIX)/lib/systemd/system/toe@.service

# A package for this architecture, in dist: apt install ./dist/toe_*.deb
deb: build
	packaging/deb dist

clean:
	rm -rf bin dist

go:
	@command -v $(GO) >/dev/null || { echo "Go is missing: https://go.dev/dl has it, $$(sed -n 's/^go //p' go.mod) or later" >&2; exit 1; }

# Install what is missing with apt, or say what to install. packaging/apt-get waits for other users
# of apt.
define install
	@missing=; \
	for need in $(1); do command -v $${need%%=*} >/dev/null || missing="$$missing $${need##*=}"; done; \
	for need in $(2); do test -e $${need%%=*} || missing="$$missing $${need##*=}"; done; \
	test -z "$$missing" && exit 0; \
	echo "installing:$$missing"; \
	if [ "$$(id -u)" = 0 ]; then as=; elif command -v sudo >/dev/null; then as=sudo; \
	else echo "not root, and no sudo; as root: apt-get install$$missing" >&2; exit 1; fi; \
	$$as packaging/apt-get install -y --no-install-recommends $$missing || \
	{ $$as packaging/apt-get update && $$as packaging/apt-get install -y --no-install-recommends $$missing; }
endef

deps-up:
	$(call install,$(UP_NEEDS),$(UP_FILES))

deps-native:
	$(call install,$(NATIVE_NEEDS),$(NATIVE_FILES))
