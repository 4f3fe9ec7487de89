#pragma once

#include <ATen/Parallel.h>

#include <algorithm>
#include <cstdint>

#ifdef _OPENMP
#include <omp.h>
#endif

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

// Runs f(begin, end) over items that call torch's own operators each, by one thread
// each. With a second, empty item at::parallel_for always opens a parallel region where
// it can, so that this does not depend on the count of items.
template <typename F>
void for_items(int64_t items, const F& f) {
  at::parallel_for(0, std::max<int64_t>(items, 2), 1, [&](int64_t begin, int64_t end) {
    const PlainDispatch plain;
    [[maybe_unused]] const OneThread alone;
    if (begin < items) f(begin, std::min(end, items));
  });
}

}  // namespace trajgru_ext
