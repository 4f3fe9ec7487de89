// Multiplications and additions on registers alone: what the processor can do at most.

#ifdef __AVX512F__
enum { kBytes = 64 };
#elif defined(__AVX__)
enum { kBytes = 32 };
#else
enum { kBytes = 16 };
#endif
enum { kLanes = kBytes / sizeof(float), kSums = 12 };  // enough to hide the latency

typedef float Vec __attribute__((vector_size(kBytes)));

// The operations of a round.
long operations(void) { return 2L * kLanes * kSums; }

// The factor is not known when this is compiled: nothing can be computed then.
float multiply_add(long rounds, float by) {
  Vec sums[kSums], factor, term;
  for (int j = 0; j < kLanes; ++j) factor[j] = by, term[j] = 1.0f;
  for (int k = 0; k < kSums; ++k) sums[k] = term * (float)k;
  for (long n = 0; n < rounds; ++n) {
#pragma GCC unroll 12
    for (int k = 0; k < kSums; ++k) sums[k] = sums[k] * factor + term;
  }
  float total = 0;  // which nobody needs, but the compiler does not know
  for (int k = 0; k < kSums; ++k)
    for (int j = 0; j < kLanes; ++j) total += sums[k][j];
  return total;
}
