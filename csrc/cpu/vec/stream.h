#pragma once

// Stores past the caches. A result that they cannot hold would only push out what they
// have, and an ordinary store reads the line that it is about to replace.

#include <ATen/cpu/vec/vec.h>

#include <cstdint>
#include <cstring>

namespace trajgru_ext {
namespace CPU_CAPABILITY {
namespace {

// The smallest image that is streamed: a core's share of a last-level cache is seldom
// larger.
constexpr int64_t kStreamBytes = 8 << 20;

// Whether rows that begin at `data` and lie `step` bytes apart can be streamed.
inline bool streamable([[maybe_unused]] const void* data,
                       [[maybe_unused]] int64_t step) {
#if defined(CPU_CAPABILITY_AVX512) || defined(CPU_CAPABILITY_AVX2)
  constexpr int64_t kAlignment = sizeof(at::vec::Vectorized<float>);
  const auto address = reinterpret_cast<intptr_t>(data);
  return address % kAlignment == 0 && step % kAlignment == 0;
#else
  return false;
#endif
}

template <typename T>
void stream(T* data, const at::vec::Vectorized<T>& vec) {
#if defined(CPU_CAPABILITY_AVX512)
  __m512i bits;
  std::memcpy(&bits, &vec, sizeof(bits));
  _mm512_stream_si512(reinterpret_cast<__m512i*>(data), bits);
#elif defined(CPU_CAPABILITY_AVX2)
  __m256i bits;
  std::memcpy(&bits, &vec, sizeof(bits));
  _mm256_stream_si256(reinterpret_cast<__m256i*>(data), bits);
#else
  vec.store(data);
#endif
}

// To be called after the last streaming store, before another thread reads.
inline void end_streams() {
#if defined(CPU_CAPABILITY_AVX512) || defined(CPU_CAPABILITY_AVX2)
  _mm_sfence();
#endif
}

}  // namespace
}  // namespace CPU_CAPABILITY
}  // namespace trajgru_ext
