// See flow_warp.cpp for what files of this folder may use.

#include "cpu/hff_concat.h"

#include "cpu/vec/branch_items.h"

namespace trajgru_ext {
namespace CPU_CAPABILITY {
namespace {

// The slices of the result, or of its gradient.
template <typename T>
Cursors<T, kMostBranches> slices(const BranchView<T>& view, const BranchSize& size,
                                 int skipped, const Item& item) {
  Cursors<T, kMostBranches> all;
  for (int k = 0; k < size.branches - skipped; ++k) {
    all.add(view, item, k * size.channels + item.channel);
  }
  return all;
}

template <typename scalar_t, typename T>
void forward(const HffConcat<scalar_t, T>& args, int64_t begin, int64_t end) {
  using V = PackOf<scalar_t>;
  const BranchSize& size = args.size;
  for (int64_t number = begin; number < end; ++number) {
    const Item item(size, number);
    auto x = cursors(args.branch, size.branches, item);
    auto y = slices(args.output, size, args.skipped, item);
    const auto run = [&](int64_t i, const auto& pack) {
      const auto weight = [&](const T* numbers, int k) {
        const T* first = numbers + k * size.channels;
        return size.planes ? V(first[item.channel]) : pack.load(first + i);
      };
      fuse<V>(
          args, [&](int m) { return pack.load(x.at[m] + i); },
          [&](int k, const V& z) { pack.store(y.at[k] + i, z); }, weight);
    };
    for_item<V>(size, item, run, x, y);
  }
}

template <typename scalar_t, typename T>
void backward(const HffConcatBackward<scalar_t, T>& args, int64_t begin, int64_t end) {
  using V = PackOf<scalar_t>;
  const BranchSize& size = args.size;
  for (int64_t number = begin; number < end; ++number) {
    const Item item(size, number);
    auto dy = slices(args.grad, size, args.skipped, item);
    Cursors<scalar_t, kMostBranches> dx;
    for (int m = 0; m < size.branches; ++m) {
      dx.add(args.branch_grad[m], item, item.channel);
    }
    const auto run = [&](int64_t i, const auto& pack) {
      fuse<V>(
          args, [&](int k) { return pack.load(dy.at[k] + i); },
          [&](int m, const V& sum) { pack.store(dx.at[m] + i, sum); });
    };
    for_item<V>(size, item, run, dy, dx);
  }
}

}  // namespace

template <typename scalar_t>
const HffKernels<scalar_t>& hff_kernels() {
  using T = at::opmath_type<scalar_t>;
  static constexpr HffKernels<scalar_t> kernels = {forward<scalar_t, T>,
                                                   backward<scalar_t, T>};
  return kernels;
}

TRAJGRU_INSTANTIATE_KERNELS(HffKernels, hff_kernels)

}  // namespace CPU_CAPABILITY
}  // namespace trajgru_ext
