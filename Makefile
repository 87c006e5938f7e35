# The front door. The build itself is Meson's (meson.build); BUILD is its folder.
BUILD ?= build
SUITE ?=
PREFIX ?= /usr/local

all: $(BUILD)/build.ninja
	@ninja -C $(BUILD)

$(BUILD)/build.ninja:
	@tools/install-packages build
	@meson setup --prefix $(PREFIX) $(BUILD)

# Unit, machine and other tests; the last line is "N passed, N failed". SUITE=unit runs one suite; slow and kvm (the
# part of slow that runs on a real KVM) are for SUITE only.
test: all
	@tools/run-tests $(BUILD) $(if $(SUITE),--suite $(SUITE),--no-suite fuzz --no-suite slow)

# Random input against decoder, devices and file formats, for longer than a test may take.
fuzz: all
	@tools/run-tests $(BUILD) --suite fuzz --timeout-multiplier 10

# Random instructions and streams of them against this machine's CPU, translated and run directly, for TIME seconds.
# What differs is printed with the option that runs it again; SEED=N begins with that seed.
TIME ?= 600
soak: all
	@tools/soak $(BUILD) $(TIME) $(or $(SEED),$(shell date +%s))

# stress-ng's stressors, all of them and verified, in a guest with four vCPUs, for TIME seconds.
soak-guest: all
	@tools/install-packages test
	@tests/system/stress_ng.py --berth $(BUILD)/berth --seconds $(TIME)

# What Berth has to reach, against QEMU's translator and the host; some of it with PARTS="boot login" (bench/all.py).
PARTS ?=
bench: all
	@tools/install-packages bench
	@bench/all.py --build $(BUILD) $(PARTS)

bench-net: all
	@tools/install-packages bench
	@bench/net.py

bench-disk: all
	@tools/install-packages bench
	@bench/disk.py

# What needs no run: include rules, headers, freestanding parts, format.
check: all
	@tools/check-layers $(BUILD)
	@tools/check-format

# Slow analysis: threads, compilers' analyzers.
check-deep: check
	@tools/check-deep

# Boots Debian's kernel in a VM: a shell on a terminal, else a scripted session.
demo: all
	@tools/demo $(BUILD)/berth

install: all
	@meson install -C $(BUILD)

clean:
	rm -rf $(BUILD)

.PHONY: all test fuzz soak soak-guest bench bench-disk bench-net check check-deep demo install clean
