#pragma once

// Whether bytes are those that were read before, without keeping them: 128 bits that
// two different contents share by a chance of about one in 2^64 at most, since they are
// sums of products with keys of each place (as NH of Black et al. 1999, UMAC).

#include <array>
#include <cstdint>

#include "cpu/capability.h"

namespace trajgru_ext {

using Fingerprint = std::array<uint64_t, 2>;

Fingerprint fingerprint(const void* bytes, int64_t count);

// Words of a row of keys, and sums of each.
constexpr int kFingerprintLanes = 8, kFingerprintSums = 3;

template <typename Word>
struct FingerprintKernels {
  // Of whole rows of words, which may begin anywhere.
  void (*sum)(const char* words, int64_t rows,
              Word (&sums)[kFingerprintSums * kFingerprintLanes]);
};

TRAJGRU_DECLARE_KERNELS(FingerprintKernels, fingerprint_kernels)

}  // namespace trajgru_ext
