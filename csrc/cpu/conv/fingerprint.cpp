#include "cpu/conv/fingerprint.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <cstring>
#include <vector>

#include "math/divide_up.h"

namespace trajgru_ext {
namespace {

// Bytes that are summed up by one thread; a whole count of rows.
constexpr int64_t kBlock = 64 << 10;
constexpr int64_t kRow = kFingerprintLanes * int64_t{sizeof(uint64_t)};

// Every bit of the result depends on every bit of the word.
uint64_t mix(uint64_t word) {
  word = (word ^ (word >> 30)) * 0xbf58476d1ce4e5b9;
  word = (word ^ (word >> 27)) * 0x94d049bb133111eb;
  return word ^ (word >> 31);
}

void add(Fingerprint& print, uint64_t word) {
  print[0] = mix(print[0] ^ word);
  print[1] = mix(print[1] + word) + print[0];
}

Fingerprint of_block(const char* bytes, int64_t count) {
  const auto& kernels = fingerprint_kernels<uint64_t>(kRow);
  const int64_t rows = count / kRow;
  uint64_t sums[kFingerprintSums * kFingerprintLanes];
  kernels.sum(bytes, rows, sums);
  Fingerprint print{static_cast<uint64_t>(count), ~static_cast<uint64_t>(count)};
  for (const uint64_t word : sums) add(print, word);
  for (int64_t at = rows * kRow; at < count; at += sizeof(uint64_t)) {
    uint64_t word = 0;
    std::memcpy(&word, bytes + at, std::min<int64_t>(count - at, sizeof(word)));
    add(print, word);
  }
  return print;
}

}  // namespace

Fingerprint fingerprint(const void* bytes, int64_t count) {
  const auto* data = static_cast<const char*>(bytes);
  const int64_t blocks = divide_up(count, kBlock);
  std::vector<Fingerprint> prints(blocks);
  at::parallel_for(0, blocks, 4, [&](int64_t begin, int64_t end) {
    for (int64_t k = begin; k < end; ++k) {
      prints[k] = of_block(data + k * kBlock, std::min(kBlock, count - k * kBlock));
    }
  });
  Fingerprint all{};
  for (const Fingerprint& print : prints) {
    for (const uint64_t word : print) add(all, word);
  }
  return all;
}

}  // namespace trajgru_ext
