# The C++ library: `make cpp-build`, `make cpp-test`, `make cpp-check`. Needs cmake, g++ and apt's Debian packages.
CPP := build/cpp
CPP_DEPS := $(CPP)/deps
CPP_PYTHON ?= $(VENV)/bin/python
CPP_JOBS ?= $(shell nproc)
CPP_CONFIGURE := cmake -S export/cpp -DONNXRUNTIME_ROOT=$(abspath $(CPP_DEPS)) -DBYOLT_WERROR=ON -DBYOLT_TESTS=ON -DBYOLT_PROGRAMS=ON
CPP_TOOLS := $(CPP)/tools/bin

.PHONY: cpp-deps cpp-build cpp-sanitize cpp-test cpp-check

cpp-deps: install
	export/cpp/fetch_deps.sh $(CPP_DEPS) $(CPP_PYTHON)

cpp-build: cpp-deps
	$(CPP_CONFIGURE) -B $(CPP)/plain -DBYOLT_EXAMPLES=ON
	cmake --build $(CPP)/plain -j$(CPP_JOBS)

# With optimisation: the sanitizers look at what is shipped, and the tests stay quick. ThreadSanitizer's build is without
# ONNX Runtime, which is not instrumented.
cpp-sanitize: cpp-deps
	$(CPP_CONFIGURE) -B $(CPP)/address -DCMAKE_BUILD_TYPE=RelWithDebInfo -DBYOLT_SANITIZE=address,undefined
	cmake --build $(CPP)/address -j$(CPP_JOBS)
	$(CPP_CONFIGURE) -B $(CPP)/thread -DCMAKE_BUILD_TYPE=RelWithDebInfo -DBYOLT_SANITIZE=thread -DBYOLT_ONNXRUNTIME=OFF
	cmake --build $(CPP)/thread -j$(CPP_JOBS)

cpp-test: cpp-build cpp-sanitize
	BYOLT_CPP=$(abspath $(CPP)) $(CPP_PYTHON) -m pytest -m cpp tests/cpp

$(CPP_TOOLS)/clang-tidy: | install
	$(UV) venv --quiet --allow-existing --python $(VENV)/bin/python $(CPP)/tools
	VIRTUAL_ENV=$(CPP)/tools $(UV) pip install --quiet clang-format==23.1.3 clang-tidy==23.1.4

cpp-check: $(CPP_TOOLS)/clang-tidy cpp-build
	$(CPP_TOOLS)/clang-format --dry-run --Werror $$(git ls-files 'export/cpp/*.hpp' 'export/cpp/*.cpp')
	$(CPP_TOOLS)/clang-tidy --quiet -p $(CPP)/plain $$(git ls-files 'export/cpp/src/*.cpp' 'export/cpp/programs/*.cpp' 'export/cpp/examples/*.cpp')
