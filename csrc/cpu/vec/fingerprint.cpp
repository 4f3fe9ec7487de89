#include "cpu/conv/fingerprint.h"

#include <cstring>

namespace trajgru_ext {
namespace CPU_CAPABILITY {
namespace {

// All lanes, as the compiler makes vectors of them.
using Lanes [[gnu::vector_size(sizeof(uint64_t) * kFingerprintLanes)]] = uint64_t;

// Odd numbers without a pattern (the golden ratio's digits and a generator's).
constexpr uint64_t kFirst = 0x9e3779b97f4a7c15, kSecond = 0xd1342543de82ef95;
constexpr uint64_t kHalf = 0xffffffff;

void sum(const char* words, int64_t rows,
         uint64_t (&sums)[kFingerprintSums * kFingerprintLanes]) {
  Lanes first{}, second{}, plain{}, first_key{}, second_key{};
  for (int k = 0; k < kFingerprintLanes; ++k) {
    first_key[k] = kFirst * (2 * k + 1);
    second_key[k] = kSecond * (2 * k + 1);
  }
  for (int64_t row = 0; row < rows; ++row) {
    Lanes here;
    std::memcpy(&here, words + row * int64_t{sizeof(here)}, sizeof(here));
    // Both halves of a word, each with its key, multiplied.
    const Lanes one = here + first_key, other = here ^ second_key;
    first += (one & kHalf) * (one >> 32);
    second += (other & kHalf) * (other >> 32);
    plain += here;
    first_key += kSecond;
    second_key += kFirst;
  }
  std::memcpy(sums, &first, sizeof(first));
  std::memcpy(sums + kFingerprintLanes, &second, sizeof(second));
  std::memcpy(sums + 2 * kFingerprintLanes, &plain, sizeof(plain));
}

}  // namespace

template <typename Word>
const FingerprintKernels<Word>& fingerprint_kernels() {
  static constexpr FingerprintKernels<Word> kernels = {sum};
  return kernels;
}

template const FingerprintKernels<uint64_t>& fingerprint_kernels<uint64_t>();

}  // namespace CPU_CAPABILITY
}  // namespace trajgru_ext
