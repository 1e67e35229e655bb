# The C++ library: `make cpp-build`, `make cpp-test`, `make cpp-fuzz`, `make cpp-check`. Needs cmake, g++ and apt's Debian
# packages.
CPP := build/cpp
CPP_DEPS := $(CPP)/deps
CPP_PYTHON ?= $(VENV)/bin/python
CPP_JOBS ?= $(shell nproc)
CPP_CONFIGURE := cmake -S export/cpp -DONNXRUNTIME_ROOT=$(abspath $(CPP_DEPS)) -DBYOLT_WERROR=ON -DBYOLT_TESTS=ON -DBYOLT_PROGRAMS=ON
CPP_TOOLS := $(CPP)/tools/bin
FUZZ_COUNT ?= 10000

.PHONY: cpp-deps cpp-build cpp-address cpp-sanitize cpp-test cpp-fuzz cpp-check cpp-cuda

cpp-deps: install
	export/cpp/fetch_deps.sh $(CPP_DEPS) $(CPP_PYTHON)

cpp-build: cpp-deps
	$(CPP_CONFIGURE) -B $(CPP)/plain -DBYOLT_EXAMPLES=ON
	cmake --build $(CPP)/plain -j$(CPP_JOBS)

# With optimisation: the sanitizers look at what is shipped, and the tests stay quick. ThreadSanitizer's build is without
# ONNX Runtime, which is not instrumented.
cpp-address: cpp-deps
	$(CPP_CONFIGURE) -B $(CPP)/address -DCMAKE_BUILD_TYPE=RelWithDebInfo -DBYOLT_SANITIZE=address,undefined -DBYOLT_FUZZ=ON
	cmake --build $(CPP)/address -j$(CPP_JOBS)

cpp-sanitize: cpp-address
	$(CPP_CONFIGURE) -B $(CPP)/thread -DCMAKE_BUILD_TYPE=RelWithDebInfo -DBYOLT_SANITIZE=thread -DBYOLT_ONNXRUNTIME=OFF
	cmake --build $(CPP)/thread -j$(CPP_JOBS)

cpp-test: cpp-build cpp-sanitize
	BYOLT_CPP=$(abspath $(CPP)) $(CPP_PYTHON) -m pytest -m cpp tests/cpp

# Damaged bundles for the C++ library under AddressSanitizer and UndefinedBehaviorSanitizer, and for Python's reader.
cpp-fuzz: cpp-address
	PYTHONPATH=. $(CPP_PYTHON) -m tests.cpp.fuzz_bundles --count $(FUZZ_COUNT) --program $(CPP)/address/fuzz_bundle \
	  $(if $(shell command -v strace),--trace)

$(CPP_TOOLS)/clang-tidy: | install
	$(UV) venv --quiet --allow-existing --python $(VENV)/bin/python $(CPP)/tools
	VIRTUAL_ENV=$(CPP)/tools $(UV) pip install --quiet clang-format==23.1.3 clang-tidy==23.1.4 nvidia-cuda-nvcc==13.2.78 \
	  nvidia-cuda-runtime==13.2.75 nvidia-cuda-crt==13.2.78 nvidia-nvvm==13.2.78 nvidia-cuda-cccl==13.2.75

# The kernels for Orin, data-centre GPUs and Thor, with the compiler that the package index has.
cpp-cuda: $(CPP_TOOLS)/clang-tidy
	for arch in 87 90 110; do $(CPP)/tools/lib/python3*/site-packages/nvidia/cu13/bin/nvcc -std=c++17 -arch=sm_$$arch \
	  -Werror all-warnings -Xcompiler -Wall,-Wextra,-Werror -Iexport/cpp/include -Iexport/cpp/src \
	  -c export/cpp/src/resize_kernel.cu -o $(CPP)/resize_kernel.sm_$$arch.o || exit 1; done

cpp-check: cpp-cuda cpp-build
	$(CPP_TOOLS)/clang-format --dry-run --Werror $$(git ls-files 'export/cpp/*.hpp' 'export/cpp/*.cpp' 'export/cpp/*.cu')
	git ls-files 'export/cpp/src/*.cpp' 'export/cpp/programs/*.cpp' 'export/cpp/examples/*.cpp' \
	  | xargs -P $(CPP_JOBS) -n 4 $(CPP_TOOLS)/clang-tidy --quiet -p $(CPP)/plain
