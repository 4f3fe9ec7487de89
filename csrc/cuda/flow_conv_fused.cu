#include "cuda/flow_conv_fused.h"

#include <type_traits>

#include "cuda/flow_conv_gru_step.cuh"
#include "cuda/images.h"
#include "tensors/tf32.h"

namespace trajgru_ext::cuda {
namespace {

using at::Tensor;

// Whether the code that runs here has the tensor cores' instructions of 8.0; on 7.5
// they multiply half types alone.
bool has_all_products() {
  return code_capability(
             flow_conv_fused_kernel<float, TensorCores, OutputTiles<float>>) >= 80;
}

// Tensor cores round float32, where convolutions may: this one stands for one.
bool float32_is_rounded() {
  return convolutions_take_tf32() && has_all_products();
}

bool has_products(at::ScalarType dtype) {
  switch (dtype) {
    case at::kHalf:
      return true;
    case at::kBFloat16:
      return has_all_products();
    default:
      return dtype == at::kFloat;
  }
}

FusedSizes sizes_of(const Tensor& input, const Tensor& flows, const Tensor& weight) {
  return {input.size(0),     input.size(2),
          input.size(3),     input.size(1) * static_cast<int64_t>(input.element_size()),
          flows.size(1) / 2, weight.size(0)};
}

template <template <typename> typename Products, typename scalar_t, typename Results>
void launch_products(const Tensor& input, const Tensor& flows, const Tensor& weight,
                     double flow_scale, const Results& results) {
  const FlowConvTiles<scalar_t> args{image_size<int32_t>(input),
                                     static_cast<int32_t>(flows.size(1) / 2),
                                     static_cast<int32_t>(weight.size(0)),
                                     image_view<const scalar_t, int32_t>(input),
                                     image_view<const float, int32_t>(flows),
                                     static_cast<float>(flow_scale),
                                     weight.const_data_ptr<scalar_t>()};
  const auto tiles = static_cast<unsigned>(fused_tiles(sizes_of(input, flows, weight)));
  launch(flow_conv_fused_kernel<scalar_t, Products, Results>, dim3(tiles),
         dim3(kFusedThreads), 0, current_stream(), args, results);
}

template <typename scalar_t, typename Results>
void launch_tiles(const Tensor& input, const Tensor& flows, const Tensor& weight,
                  double flow_scale, const Results& results) {
  if constexpr (std::is_same_v<scalar_t, float>) {
    if (!float32_is_rounded()) {
      return launch_products<MultiplyAdds, float>(input, flows, weight, flow_scale,
                                                  results);
    }
  }
  launch_products<TensorCores, scalar_t>(input, flows, weight, flow_scale, results);
}

template <typename scalar_t>
void write_tiles(const Tensor& input, const Tensor& flows, const Tensor& weight,
                 const Tensor& bias, double flow_scale, const Tensor& output) {
  const OutputTiles<scalar_t> results{
      bias.defined() ? bias.const_data_ptr<scalar_t>() : nullptr,
      image_view<scalar_t, int32_t>(output)};
  launch_tiles<scalar_t>(input, flows, weight, flow_scale, results);
}

}  // namespace

bool flow_conv_is_fused(const Tensor& input, const Tensor& flows,
                        const Tensor& weight) {
  if (!has_products(input.scalar_type())) return false;
  const auto address = reinterpret_cast<uintptr_t>(weight.const_data_ptr());
  return tiles_pay(sizes_of(input, flows, weight), chunk_limits().multiprocessors) &&
         aligned(input, kVectorBytes / input.element_size()) &&
         address % kVectorBytes == 0 &&
         fits_32_bits(pixels(input) * weight.size(0), {input, flows, weight});
}

void flow_conv_fused(const Tensor& input, const Tensor& flows, const Tensor& weight,
                     const OptionalTensor& bias, double flow_scale,
                     const Tensor& output) {
  const Tensor offsets = bias.has_value() ? bias->contiguous() : Tensor();
  const auto run = input.scalar_type() == at::kHalf       ? write_tiles<at::Half>
                   : input.scalar_type() == at::kBFloat16 ? write_tiles<at::BFloat16>
                                                          : write_tiles<float>;
  run(input, flows, weight, offsets, flow_scale, output);
}

bool flow_conv_updates_gates(const Tensor& h, const Tensor& flows,
                             const Tensor& weight) {
  return weight.size(0) == kGates * h.size(1) && h.size(1) % kSide == 0 &&
         flow_conv_is_fused(h, flows, weight);
}

template <typename scalar_t>
void flow_conv_gru_step(const Tensor& h, const Tensor& flows, const Tensor& weight,
                        double flow_scale, const Step<scalar_t>& step) {
  launch_tiles<scalar_t>(h, flows, weight, flow_scale, GruTiles<scalar_t>{step});
}

#define TRAJGRU_GRU_STEP(scalar_t)                                              \
  template void flow_conv_gru_step(const Tensor&, const Tensor&, const Tensor&, \
                                   double, const Step<scalar_t>&);
TRAJGRU_GRU_STEP(float)
TRAJGRU_GRU_STEP(at::Half)
TRAJGRU_GRU_STEP(at::BFloat16)
#undef TRAJGRU_GRU_STEP

}  // namespace trajgru_ext::cuda
