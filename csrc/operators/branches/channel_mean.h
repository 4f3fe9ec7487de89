#pragma once

// channel_mean on any device; operators/device.h says what Device is.

#include <torch/library.h>

#include <limits>

#include "operators/branches/branch_checks.h"
#include "operators/branches/branch_layout.h"

namespace trajgru_ext {

template <typename Device>
struct ChannelMeanOperators {
  static at::Tensor mean(at::TensorList branches) {
    const char* op = "channel_mean";
    check_branches(op, branches, 1);
    const at::Tensor& first = branches[0];
    const typename Device::Guard guard(first.device());
    const PlainDispatch plain;
    const Branches<Device> in(branches);
    const at::Tensor means = at::empty({first.size(0), first.size(1)}, first.options());
    if (first.numel() == 0) {
      return means.fill_(std::numeric_limits<double>::quiet_NaN());
    }
    dispatch_branches(first, [&]<typename scalar_t, typename T>() {
      BranchSums<scalar_t, T> args{};
      args.size = in.size;
      args.size.branches = 1;
      args.branches = in.size.branches;
      in.show(args.branch);
      const at::Tensor sums = empty_sums(args.size, first);
      args.sums = data<T>(sums);
      Device::loop(args);
      Device::run(BranchMeans<scalar_t, T>{args.size, args.sums, data<scalar_t>(means)},
                  means.numel());
    });
    return means;
  }

  static void implement(torch::Library& m) { m.impl("channel_mean", &mean); }
};

}  // namespace trajgru_ext
