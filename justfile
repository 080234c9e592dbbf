# The menu. Each line is a plain command, so nothing here is needed to work on Tombolo.

# list the menu
default:
    @just --list

# everything the gate runs, with a table of times
ci:
    .ci/run

# fast answer while working
check:
    cargo check --workspace --all-targets --locked

# all tests
test:
    cargo test --workspace --locked

# catalogs of 10,000 exports between two gateways, and the rules alone
bench:
    cargo bench --locked --bench catalog --bench model

# floors, sizes, names
tidy:
    cargo tidy

# formatting and lints, as the gate wants them
lint:
    cargo fmt --check
    cargo lint

# write docs/reference anew from the code
bless:
    TOMBOLO_BLESS=1 cargo test --locked --test reference

# the documentation, warnings refused
docs:
    RUSTDOCFLAGS=-Dwarnings cargo doc --workspace --no-deps --locked

# licences, bans, sources and advisories (needs cargo-deny)
deny:
    cargo deny check
