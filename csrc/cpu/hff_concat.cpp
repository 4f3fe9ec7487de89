#include "cpu/hff_concat.h"

#include "cpu/branch_device.h"
#include "operators/branches/hff_concat.h"
#include "tensors/library.h"

namespace trajgru_ext {
namespace {

struct CpuHffDevice : CpuBranchDevice {
  template <typename scalar_t, typename T>
  static void loop(const HffConcat<scalar_t, T>& args) {
    for_chunks(args.size, [&](int64_t row, int64_t begin, int64_t end) {
      hff_kernels<scalar_t>(row).forward(args, begin, end);
    });
  }

  template <typename scalar_t, typename T>
  static void loop(const HffConcatBackward<scalar_t, T>& args) {
    for_chunks(args.size, [&](int64_t row, int64_t begin, int64_t end) {
      hff_kernels<scalar_t>(row).backward(args, begin, end);
    });
  }

  template <typename scalar_t, typename T>
  static void loop(const HffAffineBackward<scalar_t, T>& args) {
    for_chunks(args.of.size, [&](int64_t row, int64_t begin, int64_t end) {
      hff_kernels<scalar_t>(row).affine_backward(args, begin, end);
    });
  }
};

TRAJGRU_LIBRARY_IMPL(CPU, m) {
  HffOperators<CpuHffDevice>::implement(m);
}

}  // namespace
}  // namespace trajgru_ext
