# The common jobs in one word each; the build itself is CMake's (CMakePresets.json).
BUILD := build/release
FUZZ_SECONDS ?= 60

.PHONY: build demo test deps install bench lint fuzz tsan asan clean

build:
	cmake --preset release
	cmake --build --preset release

# Compresses the embedded teacher on both tracks and reports.
demo:
	tools/install-deps.sh build
	cmake --preset release
	cmake --build --preset release --target quern
	tools/demo.sh

# Everything that can be tested here; what is skipped is listed with its reason.
test:
	tools/install-deps.sh build test
	tools/setup-reference.sh
	cmake --preset release
	cmake --build --preset release
	tools/run-tests.sh $(BUILD)

deps:
	tools/install-deps.sh

install: build
	cmake --install $(BUILD) $(if $(PREFIX),--prefix $(PREFIX))

# The table of kernels and stages; tools/bench.sh sets them beside the reference stack (BENCHMARKS.md).
bench: build
	$(BUILD)/src/cli/quern bench --model models/demo --docs models/demo/dev.txt

# The tests under clang's thread sanitizer, whose own findings fail them; those beside the reference stack take hours and are
# left out.
tsan:
	tools/install-deps.sh build lint
	cmake --preset tsan
	cmake --build --preset tsan
	tools/run-tests.sh build/tsan --label-exclude reference

# Likewise under the address and undefined-behaviour sanitizers.
asan:
	tools/install-deps.sh build lint
	cmake --preset asan
	cmake --build --preset asan
	tools/run-tests.sh build/asan --label-exclude reference

lint:
	tools/install-deps.sh build lint
	cmake --preset release
	tools/lint.sh $(BUILD)

fuzz:
	tools/install-deps.sh build lint
	cmake --preset fuzz
	cmake --build --preset fuzz
	tools/run-fuzzers.sh build/fuzz $(FUZZ_SECONDS)

clean:
	rm -rf build
