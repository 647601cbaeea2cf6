# pageherd: build, show, test and install. `make` alone lists the targets.

SHELL := /bin/bash
PREFIX ?= /usr/local
DESTDIR ?=
CARGO_TARGET_DIR ?= target
# rustup puts cargo where a non-login shell may not look.
export PATH := $(PATH):$(or $(CARGO_HOME),$(HOME)/.cargo)/bin

COMMANDS := memscan mig-send mig-recv
BINARIES := $(COMMANDS:%=$(CARGO_TARGET_DIR)/release/%)
PAGES := $(wildcard man/*.[1-9])
share := $(DESTDIR)$(PREFIX)/share
bash_folder := $(share)/bash-completion/completions
zsh_folder := $(share)/zsh/site-functions
fish_folder := $(share)/fish/vendor_completions.d

.PHONY: help build demo test fuzz bench lint gen deps install uninstall clean

help: ## this list
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | while IFS=$$'\t' read -r name words; \
	    do printf 'make %-10s %s\n' "$$name" "$$words"; done

build: ## the commands, in target/release
	cargo build --release --bins

demo: deps ## QEMU guests that share memory: what memscan says of it, and a move of all (root)
	@scripts/demo

test: deps ## every test; those that need privilege too where this is root
	@scripts/test

fuzz: ## a million streams that are damaged, a million that nobody thought of
	PAGEHERD_FUZZ=1000000 cargo test --release --test stream -- --nocapture random_damage the_readers_agree

bench: deps ## times, as ratios within one run (root)
	cargo bench --bench scan --bench moves --bench qemu

lint: deps ## formatting, clippy, documentation, dependencies, generated files
	@scripts/lint

gen: ## make man/ and completions/ anew
	for c in $(COMMANDS); do cargo run --release --quiet --bin $$c -- generate man completions || exit; done

deps:
	@scripts/install-deps

# Built anew only where a source is newer, so that `sudo make install` after `make build` needs no
# cargo of root's own.
$(BINARIES) &: Cargo.toml Cargo.lock $(shell find src -name '*.rs')
	cargo build --release --bins
	@touch $(BINARIES)

install: $(BINARIES) ## commands, manual and completions, to PREFIX (/usr/local) below DESTDIR
	install -d $(DESTDIR)$(PREFIX)/bin $(bash_folder) $(zsh_folder) $(fish_folder)
	install -m 755 $(BINARIES) $(DESTDIR)$(PREFIX)/bin
	for p in $(PAGES); do \
	    install -D -m 644 $$p $(share)/man/man$${p##*.}/$${p##*/} || exit; \
	done
	for c in $(COMMANDS); do \
	    install -m 644 completions/$$c.bash $(bash_folder)/$$c && \
	    install -m 644 completions/_$$c $(zsh_folder)/_$$c && \
	    install -m 644 completions/$$c.fish $(fish_folder)/$$c.fish || exit; \
	done

uninstall: ## what install has put there
	rm -f $(COMMANDS:%=$(DESTDIR)$(PREFIX)/bin/%)
	for p in $(PAGES); do rm -f $(share)/man/man$${p##*.}/$${p##*/}; done
	rm -f $(COMMANDS:%=$(bash_folder)/%) $(COMMANDS:%=$(zsh_folder)/_%) $(COMMANDS:%=$(fish_folder)/%.fish)

clean: ## everything that was built
	rm -rf $(CARGO_TARGET_DIR)
