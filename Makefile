# Thin: each target names the tool that does the work. See README.md.
B ?= build

.PHONY: all build run check check-long check-settings features asan tsan bench bench-cpu bench-boot bench-smp bench-block bench-user prove-diff fuzz fuzz-images format clean need-build need-run need-check
all: build

need-build:
	@tools/setup.sh build
need-run: need-build
	@tools/setup.sh run
need-check: need-run
	@tools/setup.sh check

$(B)/build.ninja:
	CC="$${CC:-$$(command -v ccache >/dev/null && echo 'ccache gcc' || echo gcc)}" meson setup $(B)
build: need-build
	@$(MAKE) --no-print-directory $(B)/build.ninja
	ninja -C $(B) -j$$(nproc)
run: need-run build
	@tools/run.py $(RUN_ARGS)
check: need-check
	@tools/check.py $(CHECK_ARGS)
check-long: need-check
	@tools/check.py --long $(CHECK_ARGS)
check-settings: need-check
	@tools/check.py --settings $(CHECK_ARGS)
features:
	@tools/features.py
asan: need-check
	@tools/check.py --only asan
tsan: need-check
	@tools/check.py --sanitize thread
bench: build
	@tools/bench.py $(BENCH_ARGS)
bench-cpu bench-boot bench-smp bench-block bench-user: build
	@bench/$(@:bench-%=%) $(BENCH_ARGS)
prove-diff: build
	@tools/prove_diff.py $(PROVE_ARGS)
fuzz: need-check
	@tools/fuzz.py $(FUZZ_ARGS)
	@tools/fuzz_images.py $(FUZZ_IMAGES_ARGS)
fuzz-images: need-check
	@tools/fuzz_images.py $(FUZZ_IMAGES_ARGS)
format:
	@tools/check_format.sh --fix
clean:
	rm -rf build build-asan build-thread
