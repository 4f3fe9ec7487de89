#pragma once

#include <cstdlib>

namespace emulation {

// Of the devices: the newest that the kernels are built for, or what a test says.
inline int capability() {
  const char* said = std::getenv("TRAJGRU_CAPABILITY");
  return said == nullptr ? 120 : std::atoi(said);
}

}  // namespace emulation
