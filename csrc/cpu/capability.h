#pragma once

// Which of the compiled instruction sets runs here. The files in csrc/cpu/vec are
// compiled once for each, into a namespace named after it; a chooser such as
// flow_warp_kernels() returns the table of functions of the right one.

#include <string>
#include <vector>

namespace trajgru_ext {

enum class Capability { DEFAULT, AVX2, AVX512 };

// The best set that both this build and at::get_cpu_capability() have (torch heeds
// the environment variable ATEN_CPU_CAPABILITY).
Capability cpu_capability();

std::string capability_name(Capability capability);

std::vector<std::string> built_capabilities();

#if defined(TRAJGRU_X86)
#define TRAJGRU_CHOOSE_KERNELS(kernels) \
  switch (cpu_capability()) {           \
    case Capability::AVX512:            \
      return AVX512::kernels;           \
    case Capability::AVX2:              \
      return AVX2::kernels;             \
    default:                            \
      return DEFAULT::kernels;          \
  }
#else
#define TRAJGRU_CHOOSE_KERNELS(kernels) return DEFAULT::kernels
#endif

}  // namespace trajgru_ext
