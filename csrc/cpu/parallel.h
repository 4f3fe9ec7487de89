#pragma once

#include <ATen/Parallel.h>

#include <algorithm>
#include <cstdint>

#ifdef _OPENMP
#include <omp.h>
#endif

#include "math/divide_up.h"
#include "tensors/tensors.h"

#if defined(__linux__) && defined(__x86_64__)
// MKL's, where torch has it.
extern "C" [[gnu::weak]] int MKL_Set_Num_Threads_Local(int threads);
#define TRAJGRU_MAY_HAVE_MKL
#endif

namespace trajgru_ext {

// While it lives, the libraries that this thread calls use no more threads. Being in a
// parallel region does not suffice: oneDNN plans for as many as it may have, and then
// waits for those that never come; MKL sums up as if they came. A thread that torch
// meets for the first time is given torch's count, once by torch and once by what is
// inline in this library: neither may come later.
class OneThread {
 public:
  OneThread() {
#ifdef _OPENMP
    at::internal::lazy_init_num_threads();
    threads_ = at::get_num_threads();
    omp_set_num_threads(1);
#endif
    mkl_threads_ = mkl_threads(1);
  }

  ~OneThread() {
#ifdef _OPENMP
    omp_set_num_threads(threads_);
#endif
    mkl_threads(mkl_threads_);
  }

 private:
  // For this thread alone; 0 stands for as many as all may have. Returns those before.
  static int mkl_threads([[maybe_unused]] int threads) {
#ifdef TRAJGRU_MAY_HAVE_MKL
    if (MKL_Set_Num_Threads_Local != nullptr) return MKL_Set_Num_Threads_Local(threads);
#endif
    return 0;
  }

  [[maybe_unused]] int threads_ = 1;
  int mkl_threads_;
};

// How many units of each of some batches one item of a parallel loop should have for
// all threads to be done soonest: at most `most`, which suits the processor best, else
// a multiple of `step`. For loops alone whose results are the same bits however they
// are cut, since this depends on the threads.
inline int64_t fair_share(int64_t batches, int64_t units, int64_t most, int64_t step) {
  if (at::in_parallel_region()) return most;
  const int64_t threads = at::get_num_threads();
  const auto slowest = [&](int64_t some) {
    const int64_t items = batches * divide_up(units, some);
    return std::min(divide_up(items, threads) * some, batches * units);
  };
  int64_t best = most;
  // Smaller items have a cost of their own: they have to gain an eighth.
  for (int64_t some = (most - 1) / step * step; some > 0; some -= step) {
    if (8 * slowest(some) < 7 * slowest(best)) best = some;
  }
  return best;
}

// Products that one thread has sooner than several wake up.
constexpr int64_t kFewProducts = 1 << 21;

// Runs f(begin, end) over items that call torch's own operators each, by one thread
// each; products: of all items together. As a thread alone is told to use no more than
// itself, where there is one item or little to do the results are the same.
template <typename F>
void for_items(int64_t items, int64_t products, const F& f) {
  const int64_t together = products <= kFewProducts ? std::max<int64_t>(items, 1) : 1;
  at::parallel_for(0, items, together, [&](int64_t begin, int64_t end) {
    const PlainDispatch plain;
    [[maybe_unused]] const OneThread alone;
    f(begin, end);
  });
}

// What takes as long as a number that is read from memory to be added up.
constexpr int64_t kProductsOfSum = 16;

}  // namespace trajgru_ext
