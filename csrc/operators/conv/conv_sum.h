#pragma once

// conv_sum on any device that adds what follows a convolution in one kernel
// (SequencePlan::adds_biases); see operators/device.h for what Device is.

#include <ATen/Dispatch.h>
#include <torch/library.h>

#include "math/conv_sum.h"
#include "operators/device.h"
#include "operators/gates/gate_checks.h"
#include "operators/gates/gate_layout.h"
#include "operators/gates/gru_options.h"

namespace trajgru_ext {

template <typename Device>
struct ConvSumOperators {
  using Tensor = at::Tensor;

  static void implement(torch::Library& m) {
    static_assert(GateDevice<Device>);
    m.impl("conv_sum", &add);
  }

  // to, part: [B, C, H, W] in channels last; bias: [C]; offset: [1, C, H, W]; all of
  // one dtype. options: of a GRU, whose activation it is, where there is one.
  static void add(const Tensor& to, const OptionalTensor& part,
                  const OptionalTensor& bias, const OptionalTensor& offset, bool adds,
                  at::ArrayRef<double> options, bool activates) {
    static constexpr const char* op = "conv_sum";
    check_image(op, "to", to, to.device());
    if (part.has_value()) check_like_state(op, "part", *part, "to", to);
    const GruOptions chosen = gru_options(op, options, 0);
    const typename Device::Guard guard(to.device());
    const PlainDispatch plain;
    const GateLayout layout(to, to, Device::kRowLength, /*by_sample=*/true);
    const at::ScalarType dtype = to.scalar_type();
    check_buffers(op, layout, dtype, {to});
    const Tensor read = layout.fit(part, dtype);
    OptionalTensor channel = bias, everywhere = offset;
    if (to.size(1) == 1 && bias.has_value()) {
      // One channel is in planes, too, whose rows have pixels.
      everywhere = offset.has_value() ? offset->add(*bias)
                                      : bias->expand({1, 1, to.size(2), to.size(3)});
      channel = std::nullopt;
    }
    const Tensor field = layout.fit_weights(everywhere, dtype);
    check_bias(op, layout, channel, to.size(1), to);
    if (to.numel() == 0) return;
    AT_DISPATCH_FLOATING_TYPES_AND2(at::kBFloat16, at::kHalf, dtype, op, [&] {
      ConvSum<GateDtypes<scalar_t, scalar_t>> args{};
      args.rows = layout.rows();
      layout.show(args.to, to);
      layout.show(args.part, read);
      layout.show_bias(args.bias, channel);
      layout.show_weights(args.offset, field, /*per_channel=*/false);
      args.adds = adds;
      args.activates = activates;
      args.update.set(chosen.update);
      Device::run(args);
    });
  }
};

}  // namespace trajgru_ext
