#include "cpu/conv/winograd_cells.h"

#include <array>
#include <utility>

#include "cpu/conv/conv_algorithm.h"
#include "cpu/conv/packed_weights.h"
#include "cpu/conv/pixels.h"
#include "cpu/conv/winograd_conv.h"
#include "operators/conv/winograd_step.h"

namespace trajgru_ext {
namespace {

using at::Tensor;

// Whether a convolution of [input, h] (of h alone) updates gates.
bool updates_gates(const CellConv& conv, const OptionalTensor& input, const Tensor& h) {
  const auto& [weight, bias, padding, dilation] = conv;
  if (!weight.is_cpu() || h.size(0) == 0) return false;
  const PlainDispatch plain;
  const int64_t channels = input.has_value() ? input->size(1) : 0;
  const Tensor h_weight = weight.narrow(1, channels, h.size(1));
  OptionalTensor x_weight;
  if (channels > 0) x_weight = weight.narrow(1, 0, channels);
  return use_winograd_gates(x_weight, dilation,
                            {h_weight, dilation, h.size(2), h.size(3)});
}

// What a fused step takes of a convolution.
struct Packed {
  Tensor weights;
  const OptionalTensor& bias;
  int64_t taps;

  Packed(const CellConv& conv, int64_t gates)
      : weights(packed_weights({std::get<Tensor>(conv)}, false, gates)),
        bias(std::get<OptionalTensor>(conv)),
        taps(std::get<Tensor>(conv).size(2)) {}
};

// Input, state and new states as images of the kernels.
struct StepImages {
  std::optional<Pixels<class StepInput>> input;
  Pixels<class StepState> h;
  std::array<int64_t, 4> sizes;  // of a state
  at::TensorOptions options;

  // A new state is channels last where the convolution by this weight is, of both
  // images joined or of the first.
  StepImages(const OptionalTensor& given, const Tensor& state, const Tensor& weight,
             bool joined)
      : h(state),
        sizes{state.size(0), state.size(1), state.size(2), state.size(3)},
        options(state.options()) {
    const auto is_last = [](const Tensor& one) {
      return one.suggest_memory_format() == kLast;
    };
    const bool image_is_last = (!given.has_value() || is_last(*given)) &&
                               ((given.has_value() && !joined) || is_last(state));
    options = options.memory_format(
        image_is_last || is_last(weight) ? kLast : at::MemoryFormat::Contiguous);
    if (given.has_value()) input.emplace(*given);
  }

  // What a convolution of [input, state] reads.
  std::vector<Tensor> with(const Tensor& state) const {
    if (!input.has_value()) return {state};
    return {input->image, state};
  }
};

}  // namespace

std::optional<std::vector<Tensor>> winograd_lstm_cell(
    const OptionalTensor& input, const Tensor& h, const Tensor& c, const CellConv& conv,
    const std::vector<OptionalTensor>& peephole, const std::vector<double>& options) {
  if (!updates_gates(conv, input, h)) return std::nullopt;
  const PlainDispatch plain;
  const StepImages images(input, h, std::get<Tensor>(conv), true);
  const Pixels<class Cell> cell(c);
  const Packed packed(conv, 4);
  Tensor new_c;
  const Tensor new_h =
      from_pixels<class NewH>(images.sizes, images.options, [&](const Tensor& h_after) {
        const auto step = [&](const Tensor& c_after) {
          winograd_lstm_step(images.with(images.h.image), packed.weights, packed.bias,
                             packed.taps, std::nullopt, cell.image, peephole[0],
                             peephole[1], peephole[2], options, std::nullopt,
                             std::nullopt, h_after, c_after);
        };
        new_c = from_pixels<class NewC>(images.sizes, images.options, step);
      });
  return std::vector<Tensor>{new_h, new_c};
}

std::optional<Tensor> winograd_gru_cell_after(const OptionalTensor& input,
                                              const Tensor& h,
                                              const std::optional<CellConv>& i2h,
                                              const CellConv& h2h,
                                              const std::vector<double>& options,
                                              const OptionalTensor& mask) {
  if (!updates_gates(h2h, std::nullopt, h)) return std::nullopt;
  const PlainDispatch plain;
  const CellConv& first = input.has_value() ? i2h.value() : h2h;
  const auto& [weight, bias, padding, dilation] = first;
  if (input.has_value() &&
      !use_winograd_conv2d({weight, dilation, h.size(2), h.size(3)})) {
    return std::nullopt;
  }
  const StepImages images(input, h, weight, false);
  const auto [batch, features, height, width] = images.sizes;
  const Pixels<class Gates> gates({batch, 3 * features, height, width});
  if (input.has_value()) {
    winograd_conv({images.input->image}, packed_weights({weight}, false, 1), bias,
                  weight.sizes().slice(2), padding, gates.image);
  }
  const Packed packed(h2h, 3);
  return from_pixels<class NewH>(
      images.sizes, images.options, [&](const Tensor& after) {
        winograd_gru_step({images.h.image}, packed.weights, packed.bias, packed.taps,
                          gates.image, images.h.image, input.has_value(), options, mask,
                          std::nullopt, after);
      });
}

std::optional<Tensor> winograd_gru_cell_before(const OptionalTensor& input,
                                               const Tensor& h,
                                               const CellConv& conv_gates,
                                               const CellConv& conv_can,
                                               const std::vector<double>& options,
                                               const OptionalTensor& mask) {
  if (!updates_gates(conv_gates, input, h) || !updates_gates(conv_can, input, h)) {
    return std::nullopt;
  }
  const PlainDispatch plain;
  const StepImages images(input, h, std::get<Tensor>(conv_gates), true);
  const Pixels<class Update> u(images.sizes);
  const Pixels<class Left> left(images.sizes);
  const Tensor& state = images.h.image;
  const Packed to_gates(conv_gates, 2);
  winograd_gru_reset(images.with(state), to_gates.weights, to_gates.bias, to_gates.taps,
                     state, options, std::nullopt, u.image, left.image);
  const Packed to_can(conv_can, 1);
  return from_pixels<class NewH>(
      images.sizes, images.options, [&](const Tensor& after) {
        winograd_gru_output(images.with(left.image), to_can.weights, to_can.bias,
                            to_can.taps, u.image, state, options, mask, std::nullopt,
                            after);
      });
}

}  // namespace trajgru_ext
