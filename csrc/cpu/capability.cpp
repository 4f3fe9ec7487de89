#include "cpu/capability.h"

#include <ATen/Version.h>

namespace trajgru_ext {

Capability cpu_capability() {
  static const Capability capability = [] {
#if defined(TRAJGRU_X86)
    const std::string best = at::get_cpu_capability();
    if (best == "AVX512") return Capability::AVX512;
    if (best == "AVX2") return Capability::AVX2;
#endif
    return Capability::DEFAULT;
  }();
  return capability;
}

Capability cpu_capability(int64_t channels, size_t bytes) {
  constexpr int64_t kWidest = 64;  // bytes of an AVX512 vector
  const Capability best = cpu_capability();
  const bool narrow = channels * static_cast<int64_t>(bytes) < kWidest;
  return best == Capability::AVX512 && narrow ? Capability::AVX2 : best;
}

std::string capability_name(Capability capability) {
  switch (capability) {
    case Capability::AVX512:
      return "AVX512";
    case Capability::AVX2:
      return "AVX2";
    default:
      return "DEFAULT";
  }
}

std::vector<std::string> built_capabilities() {
#if defined(TRAJGRU_X86)
  return {"DEFAULT", "AVX2", "AVX512"};
#else
  return {"DEFAULT"};
#endif
}

}  // namespace trajgru_ext
