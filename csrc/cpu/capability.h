#pragma once

// Which of the compiled instruction sets runs here. The files in csrc/cpu/vec are
// compiled once for each, into a namespace named after it; a chooser such as
// flow_warp_kernels() returns the table of functions of the right one.

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace trajgru_ext {

enum class Capability { DEFAULT, AVX2, AVX512 };

// The best set that both this build and at::get_cpu_capability() have (torch heeds
// the environment variable ATEN_CPU_CAPABILITY).
Capability cpu_capability();

// The same for loops along a pixel's channels of that many bytes each: vectors that are
// wider than all the channels would leave nothing but remainders.
Capability cpu_capability(int64_t channels, size_t bytes);

// Bytes of an element of the loops' rows; of a table for several dtypes, see there.
template <typename scalar_t>
inline constexpr size_t kElementBytes = sizeof(scalar_t);

std::string capability_name(Capability capability);

std::vector<std::string> built_capabilities();

#if defined(TRAJGRU_X86)
#define TRAJGRU_DECLARE_FOR_X86(Table, kernels) \
  namespace AVX2 {                              \
  template <typename scalar_t>                  \
  const Table<scalar_t>& kernels();             \
  }                                             \
  namespace AVX512 {                            \
  template <typename scalar_t>                  \
  const Table<scalar_t>& kernels();             \
  }
#define TRAJGRU_CHOOSE_FOR_X86(kernels)                        \
  switch (cpu_capability(channels, kElementBytes<scalar_t>)) { \
    case Capability::AVX512:                                   \
      return AVX512::kernels<scalar_t>();                      \
    case Capability::AVX2:                                     \
      return AVX2::kernels<scalar_t>();                        \
    default:                                                   \
      break;                                                   \
  }
#else
#define TRAJGRU_DECLARE_FOR_X86(Table, kernels)
#define TRAJGRU_CHOOSE_FOR_X86(kernels)
#endif

// Declares the table of functions that csrc/cpu/vec defines for each set, and
// kernels<scalar_t>(channels), which returns the right one.
#define TRAJGRU_DECLARE_KERNELS(Table, kernels)                       \
  namespace DEFAULT {                                                 \
  template <typename scalar_t>                                        \
  const Table<scalar_t>& kernels();                                   \
  }                                                                   \
  TRAJGRU_DECLARE_FOR_X86(Table, kernels)                             \
  template <typename scalar_t>                                        \
  const Table<scalar_t>& kernels([[maybe_unused]] int64_t channels) { \
    TRAJGRU_CHOOSE_FOR_X86(kernels)                                   \
    return DEFAULT::kernels<scalar_t>();                              \
  }

// In csrc/cpu/vec: all dtypes of a table.
#define TRAJGRU_INSTANTIATE_KERNELS(Table, kernels)            \
  template const Table<float>& kernels<float>();               \
  template const Table<double>& kernels<double>();             \
  template const Table<at::BFloat16>& kernels<at::BFloat16>(); \
  template const Table<at::Half>& kernels<at::Half>();

}  // namespace trajgru_ext
